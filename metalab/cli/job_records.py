"""What is written down of a sweep and of each of its jobs, in their folders, where every process finds it."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from socket import gethostname
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from metalab.tracking.run_folder import JOB as RECORD
from metalab.tracking.run_lock import is_locked

PLAN = "sweep.json"  # in a sweep's folder: what it is to do; it stays, so that `resume=` can go on with the rest
BY_NUMBER = "${hydra.job.num}"  # hydra.sweep.subdir where nothing else is typed: 0, 1, ...
Kind = TypeVar("Kind", "Job", "Sweep")


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    A record of the same sweep, by its id, which each command line draws anew, is what tells a job that a scheduler
    starts a second time (its folder is its own: it goes on there) from a run that another command left there.
    """

    folder: str
    number: int
    words: list[str]  # of the command line, a sweep's values chosen
    state: Literal["waiting", "running", "done", "failed", "stopped"]
    message: str = ""  # why it failed or stopped
    value: Any = None  # what it returned to Hydra
    sweep: str = ""  # the id of the sweep
    again: bool = False  # it has begun before, in this folder, and goes on
    pid: int | None = None  # of its process
    host: str | None = None  # where that runs
    started: int | None = None  # when that began, as the system counts: another process has its number one day

    @property
    def name(self) -> str:
        """What people are shown: its number and its words."""
        return f"#{self.number} {' '.join(self.words)}"

    @property
    def alive(self) -> bool:
        """Whether it runs in another process, as far as this machine can see: of another host it is believed."""
        return self.state == "running" and self.pid is not None and (self.host != gethostname() or _lives(self))

    @property
    def alive_here(self) -> bool:
        """Whether it runs in another process of this machine: what is gone elsewhere nobody can see from here."""
        return self.host == gethostname() and self.alive


@dataclass(frozen=True)
class Sweep:
    """What a sweep is to do."""

    id: str
    command: str  # train, eval, ...
    jobs: list[list[str]] | None  # the words of each; None: a sweeper that searches decides as it goes
    stopped: bool = False  # by Ctrl-C: no further job begins
    subdir: str = BY_NUMBER  # hydra.sweep.subdir, as it was typed
    begins: int | None = None  # how many of the jobs this command begins; None: not known
    earlier: list[str] = field(default_factory=list[str])  # ids that it had: each command that goes on draws its own
    pid: int | None = None  # of the command's process
    host: str | None = None
    started: int | None = None

    @property
    def alive_here(self) -> bool:
        """Whether its command runs in another process of this machine."""
        return self.host == gethostname() and _lives(self)

    def has(self, job: Job) -> bool:
        """Whether a record is of this sweep: another one may have had its folder before, or lie below it."""
        if self.jobs is None:
            return True
        if job.number >= len(self.jobs):
            return False
        words = self.jobs[job.number]
        older = not self.id and job.words[: len(words)] == words  # known by Hydra's multirun.yaml alone
        return older or job.sweep in (self.id, *self.earlier)


def process(pid: int) -> dict[str, Any]:
    """Return what a record says of a process of this machine."""
    return {"pid": pid, "host": gethostname(), "started": _started(pid)}


def process_lives(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and waits to be collected does not."""
    if Path("/proc/self/stat").exists():
        return (found := _stat(pid)) is not None and found[0] != "Z"
    with suppress(ProcessLookupError, OverflowError):
        with suppress(PermissionError):
            os.kill(pid, 0)
        return True
    return False


def read_plan(folder: Path) -> Sweep | None:
    """Return what the sweep in a folder is to do; None where nothing says so."""
    return _read(folder / PLAN, Sweep)


def read_job(folder: Path) -> Job | None:
    """Return what the job in a folder came to, wherever that folder was when it ran; None: nothing says so."""
    found = _read(folder / RECORD, Job)
    return None if found is None else replace(found, folder=str(folder))


def jobs_below(folder: Path) -> list[Job]:
    """Return the jobs that have a folder below one, by their numbers."""
    found = (read_job(path.parent) for path in folder.rglob(RECORD))
    return sorted((job for job in found if job is not None), key=lambda job: job.number)


def running_in(folder: Path) -> str | None:
    """Say what still runs of the sweep that is in a folder, as far as this machine can see; None: nothing."""
    plan = read_plan(folder)
    if plan is not None and plan.alive_here:
        return f"process {plan.pid} on {plan.host}"
    for job in jobs_below(folder):
        if job.alive_here:
            return f"{job.name}: process {job.pid} on {job.host}"
        if is_locked(Path(job.folder)):
            return f"{job.name}: {job.folder} is being written"
    return None


def write(path: Path, what: Job | Sweep) -> None:
    """Write a record whole or not at all: another process may read it at any time."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps(asdict(what)) + "\n", encoding="utf-8")
    os.replace(new, path)


def _read(path: Path, kind: type[Kind]) -> Kind | None:
    """Return the record in a file; None where there is none, or it is somebody else's file of that name."""
    try:
        made = kind(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    hints = get_type_hints(kind)
    return made if all(_fits(getattr(made, each.name), hints[each.name]) for each in fields(kind)) else None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of a type."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in inner
    if kind is UnionType:
        return any(_fits(value, each) for each in inner)
    if kind is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    return hint is Any or type(value) is hint


def _lives(record: Job | Sweep) -> bool:
    """Whether the process of a record, which is of this machine, is another than this one and runs."""
    if record.pid is None or record.pid == os.getpid() or not process_lives(record.pid):
        return False
    return record.started is None or record.started == _started(record.pid)


def _started(pid: int) -> int | None:
    """Return when a process began, in ticks of the system's clock; None where the system has no /proc."""
    found = _stat(pid)
    return int(found[19]) if found is not None else None


def _stat(pid: int) -> list[str] | None:
    """Return what Linux says of a process behind its name (proc(5)): its state first, the 20th is its start."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return None
