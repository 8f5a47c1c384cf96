"""`metalab runs`: a table of runs with their states, or the same as JSON."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from metalab.config.validate import suggest
from metalab.core.errors import UsageError
from metalab.tracking.run_states import RunState, age, find_states, matches

HOME = "outputs/train"
STYLES = {"running": "green", "finished": "", "stopped": "yellow", "failed": "red"}
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def run(words: list[str]) -> None:
    """Show the runs below the folders that the words name, else below outputs/train, which have the settings named.

    Args:
        words: folders, key=value filters, and --json.

    Raises:
        UsageError: for a word that makes no sense, or a setting that no run has.
        UserError: for a folder that is not there.
    """
    flags = [word for word in words if word.startswith("-")]
    if wrong := [flag for flag in flags if flag != "--json"]:
        raise UsageError(f"'{wrong[0]}': metalab runs takes folders, KEY=VALUE and --json")
    given = [Path(word) for word in words if word not in flags and ("=" not in word or Path(word).is_dir())]
    typed = [word.partition("=") for word in words if word not in flags and Path(word) not in given]
    filters = [(key, value) for key, _, value in typed]
    folders = given or [Path(HOME)]
    found = [] if not given and not folders[0].is_dir() else find_states(folders)
    shown = _filtered(found, filters)
    if flags:
        print(json.dumps([_record(each) for each in shown], indent=2))
    else:
        _show(shown, len(found), folders)


def _filtered(found: list[RunState], filters: list[tuple[str, str]]) -> list[RunState]:
    for key, value in filters:
        if not value:
            raise UsageError(f"'{key}=': expected a value, as algo=maml or task.shot=1,5")
        kept, known = [], False
        for each in found:
            try:
                kept += [each] if matches(each.settings, key, value.split(",")) else []
                known = True
            except KeyError:
                continue
        if found and not known:
            keys = {name for each in found for name in _keys(each.settings)}
            raise UsageError(f"{key}={value}: none of the {len(found)} runs has a setting {key}.{suggest(key, keys)}")
        found = kept
    return found


def _keys(node: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys of a nest of settings."""
    keys: list[str] = []
    for name, value in node.items():
        keys += [f"{prefix}{name}", *(_keys(value, f"{prefix}{name}.") if isinstance(value, dict) else ())]
    return keys


def _record(each: RunState) -> dict[str, Any]:
    return asdict(each) | {"age": age(each.started, time.time())}


def _show(shown: list[RunState], all_: int, folders: list[Path]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    where = ", ".join(map(str, folders))
    if not shown:
        text = f"no run below {where}; train one: metalab train" if not all_ else f"none of {all_} runs below {where}"
        console.print(text, soft_wrap=True)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading, more in {
        "run": {"overflow": "fold"},
        "state": {"no_wrap": True},
        "step": {"justify": "right", "no_wrap": True},
        "best val, %": {"justify": "right", "no_wrap": True},
        "age": {"justify": "right", "no_wrap": True},
        "command": {"overflow": "fold"},
    }.items():
        table.add_column(heading, **more)
    now = time.time()
    for each in shown:
        best = "-" if each.best is None else f"{100 * each.best:.2f}"
        steps = "?" if each.steps is None else f"{each.steps:,}"
        words = Text(each.command or "")
        if each.why:
            words.append(f"\n{each.why}", style="red")
        old = age(each.started, now)
        cells = (f"{each.step:,}/{steps}", best, "-" if old is None else _duration(old))
        table.add_row(Text(each.run), Text(each.state, STYLES[each.state]), *cells, words)
    console.print(table)
    counts = {state: sum(each.state == state for each in shown) for state in STYLES}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items() if count), soft_wrap=True)


def _duration(seconds: float) -> str:
    """Return a time in its largest unit."""
    size, unit = next((each for each in UNITS if seconds >= each[0]), UNITS[-1])
    return f"{max(0, seconds) / size:.0f} {unit}"
