"""A sweep of tiny trainings in processes of their own, and what one does to it meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch

from metalab.cli import sweeps
from metalab.cli.sweeps import Job
from tests.conftest import TINY

WORDS = ("data=tiny", "device=cpu", "backbone.filters=4", "task.train_way=5", "task.query=2")
WORDS += ("train.val_episodes=2", "train.val_every=100000", "train.log_every=5")
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
LONG = 100_000  # meta-steps that no test waits for


class Sweep:
    """`metalab COMMAND ...` in a folder, in a process group of its own; what it prints is in a file."""

    def __init__(self, folder: Path, *words: str, command: str = "train", **env: str):
        self.folder, self.log = folder, folder / f"log{time.time_ns()}"
        here = {k: v for k, v in os.environ.items() if not k.startswith(("METALAB_", "OMP_", "GOMP_"))}
        path = f"{TINY}{os.pathsep}{here.get('PYTHONPATH', '')}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "metalab", command, f"--config-dir={TINY}", *words],
                cwd=folder,
                env={**here, "PYTHONPATH": path, **env},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ends(self, seconds: float = 600) -> tuple[int, str]:
        """Wait for its end; return the exit code and what it printed."""
        try:
            return self.process.wait(seconds), self.log.read_text()
        finally:
            end_group(self.process.pid)


def end_group(group: int) -> None:
    """End all of a process group that is still there."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def until(true: Callable[[], bool], what: str, seconds: float = 300) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s in vain: {what}"
        time.sleep(0.05)


def job(folder: Path) -> Job:
    found = sweeps.read_job(folder)
    assert found is not None, f"{folder} has no job.json"
    return found


def trains(folder: Path) -> bool:
    """Whether the job in a folder has done its first steps."""
    metrics = folder / "metrics.jsonl"
    return metrics.is_file() and '"train/loss"' in metrics.read_text()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def descendants(pid: int) -> set[int]:
    """Return the processes below one."""
    below: dict[int, list[int]] = {}
    for each in Path("/proc").glob("[0-9]*"):
        try:
            below.setdefault(parent_of(int(each.name)), []).append(int(each.name))
        except (OSError, IndexError):
            continue
    found, todo = set[int](), [pid]
    while todo:
        todo += (new := set(below.get(todo.pop(), ())) - found)
        found |= new
    return found


def gone(pids: Iterable[int]) -> bool:
    return not any(map(sweeps.process_lives, pids))


def same_weights(one: Path, other: Path) -> bool:
    """Whether the last checkpoints of two runs hold the same net and state of the optimizer, bit for bit."""
    a, b = (torch.load(run / "last.pt", weights_only=True) for run in (one, other))
    moments = [[v for s in each["optimizer"]["state"].values() for v in s.values()] for each in (a, b)]
    return (
        a["state"]["step"] == b["state"]["step"]
        and a["net"].keys() == b["net"].keys()
        and all(torch.equal(a["net"][name], b["net"][name]) for name in a["net"])
        and all(torch.equal(x, y) for x, y in zip(*moments, strict=True))
    )
