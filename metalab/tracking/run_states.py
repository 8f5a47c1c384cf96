"""What runs are doing, read from their folders: running, finished, stopped or failed, and how far they came."""

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from metalab.core.errors import UserError
from metalab.tracking.run_folder import runs_below
from metalab.tracking.run_lock import holder_of, is_locked

GROUPS = ("algo", "backbone", "data", "reg", "attack", "engine", "optim")  # what a filter names an option of


@dataclass(frozen=True)
class RunState:
    """How one run stands."""

    run: str  # its folder
    state: Literal["running", "finished", "stopped", "failed"]
    step: int  # meta-steps of which the log knows
    steps: int | None  # that were asked for
    best: float | None  # best validation accuracy, a fraction; None: none yet
    started: str | None  # UTC, ISO 8601
    written: float  # when its log was last written, seconds since 1970
    host: str | None  # that writes it now
    why: str | None  # a failed run's message
    command: str | None
    settings: dict[str, Any]  # its config.yaml


def find_states(folders: list[Path]) -> list[RunState]:
    """Return the state of each run below the folders, the one that was written last first.

    Raises:
        UserError: for a folder that is not there.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder} in {Path.cwd()}; metalab train makes runs below outputs/train"
            )
    found: list[RunState] = []
    for run in dict.fromkeys(run for folder in folders for run in runs_below(folder, ("run.json",))):
        with suppress(OSError, ValueError, yaml.YAMLError):  # a folder that is being moved or made is none yet
            found.append(read_state(run))
    return sorted(found, key=lambda each: each.written, reverse=True)


def read_state(run: Path) -> RunState:
    """Return how the run in a folder stands; ValueError or OSError where there is none that is whole."""
    made = _mapping(json.loads((run / "run.json").read_text(encoding="utf-8")))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    settings = _mapping(yaml.load((run / "config.yaml").read_text(encoding="utf-8"), loader))
    metrics = run / "metrics.jsonl"
    step, best = _progress(metrics)
    state, host = _state(run, made)
    steps = settings.get("train", {}).get("steps")
    written = max(path.stat().st_mtime for path in (run / "run.json", metrics) if path.exists())
    return RunState(
        run=str(run),
        state=state,
        step=max(step, made.get("steps") or 0),
        steps=steps if isinstance(steps, int) else None,
        best=best,
        started=made.get("started"),
        written=written,
        host=host,
        why=made.get("failed") if state == "failed" else None,
        command=made.get("command"),
        settings=settings,
    )


def matches(settings: Mapping[str, Any], key: str, values: list[str]) -> bool:
    """Whether a run's setting is one of some values, as they are typed; of a group its option or class.

    Raises:
        KeyError: where the run has no such setting.
    """
    node: Any = settings
    for name in key.split("."):
        if not isinstance(node, Mapping):
            raise KeyError(key)
        node = node[name]
    if key in ("reg", "attack"):  # several options, each by its name
        options = {str(name) for name, part in node.items() if isinstance(part, dict)}
        return any(value in options or (value == "none" and not options) for value in values)
    if key in GROUPS:
        own = {str(node.get("name")).lower(), str(node.get("_target_")).rpartition(".")[2].lower()}
        return any(value.lower() in own for value in values)
    return any(_equal(node, value) for value in values)


def age(started: str | None, now: float) -> float | None:
    """Return how many seconds ago a run was started."""
    return None if started is None else now - datetime.fromisoformat(started).timestamp()


def _equal(node: Any, typed: str) -> bool:
    """Whether a setting is what was typed; YAML's own reader takes 1e-3 for a word."""
    if isinstance(node, int | float) and not isinstance(node, bool):
        with suppress(ValueError):
            return float(typed) == node
    return str(node) == typed or node == yaml.safe_load(typed)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected a mapping")
    return value


def _state(
    run: Path, made: Mapping[str, Any]
) -> tuple[Literal["running", "finished", "stopped", "failed"], str | None]:
    holder = holder_of(run)
    if holder is not None:
        here = holder.get("host") == socket.gethostname()
        if not here or (_alive(holder.get("pid")) and is_locked(run)):
            return "running", str(holder.get("host"))
    if made.get("failed"):
        return "failed", None
    return ("finished" if made.get("finished") else "stopped"), None


def _alive(pid: Any) -> bool:
    with suppress(ProcessLookupError, TypeError, OverflowError):
        with suppress(PermissionError):
            os.kill(pid, 0)
        return True
    return False


def _progress(metrics: Path) -> tuple[int, float | None]:
    """Return the last step of a log and its best validation accuracy."""
    step, best = 0, None
    if not metrics.exists():
        return step, best
    line = "{}"
    for line in metrics.read_text(encoding="utf-8").splitlines():
        if '"val/accuracy"' in line:
            with suppress(ValueError):
                value = json.loads(line)["val/accuracy"]
                best = value if best is None or (value is not None and value > best) else best
    with suppress(ValueError, KeyError, TypeError):
        step = int(json.loads(line)["step"])
    return step, best
