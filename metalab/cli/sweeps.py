"""What the jobs of a sweep came to, read from their folders: right under every launcher, wherever a job ran."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

FOLDER = "METALAB_SWEEP"  # the variable of the environment that says which folder the sweep of this command has
MARK = ".sweep"  # in that folder: when the sweep began, by the clock of its disk
RECORD = "job.json"  # in the folder of each job


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    folder: str
    number: int
    words: list[str]  # of the command line, a sweep's values chosen
    state: Literal["running", "done", "failed"]
    message: str = ""  # why it failed

    @property
    def name(self) -> str:
        """What people are shown: its number and its words."""
        return f"#{self.number} {' '.join(self.words)}"


class NoteSweep(Callback):
    """Note, before its first job, where a sweep is and when it begins: in conf/train.yaml, hydra.callbacks."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        with suppress(OSError):  # Hydra, which writes there next, says what is wrong with the folder
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MARK).touch()
        os.environ[FOLDER] = str(folder)


def record(job: Job) -> None:
    """Write down what a job came to, in its folder; a job that could not is one that came to no end."""
    with suppress(OSError):
        (Path(job.folder) / RECORD).write_text(json.dumps(asdict(job)) + "\n", encoding="utf-8")


def jobs() -> list[Job]:
    """Return the jobs of this command's sweep by their numbers; none where there was no sweep.

    A folder that an earlier sweep had as well holds its jobs, too: those that began before this one are left out.
    """
    folder = os.environ.get(FOLDER)
    mark = Path(folder) / MARK if folder else None
    if mark is None or not mark.is_file():
        return []
    began, found = mark.stat().st_mtime_ns, []
    for path in mark.parent.rglob(RECORD):
        with suppress(OSError, ValueError, TypeError):
            if path.stat().st_mtime_ns >= began:
                found.append(Job(**json.loads(path.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda job: job.number)


def forget() -> None:
    """Take away the note of where the sweep is, and its mark."""
    if folder := os.environ.pop(FOLDER, None):
        with suppress(OSError):
            (Path(folder) / MARK).unlink(missing_ok=True)
