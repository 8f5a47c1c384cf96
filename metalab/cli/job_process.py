"""A job of a sweep whose launcher runs several side by side has a process of its own, below the launcher's worker.

A job that the system kills, as for too much memory, is then one failed job: the launcher's worker lives, and with it
the other jobs. joblib would lose them all, as its pool breaks with its first worker. The process is a fresh one, not a
fork, so that nothing of the worker (threads, CUDA) is in it. Its standard input is a pipe that the worker holds open:
where that ends, by whatever means, so does the job, after it has saved. A worker of joblib ends likewise with the
command that launched it.
"""

import importlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalab.cli import sweeps
from metalab.cli.job_end import explain
from metalab.cli.job_records import process
from metalab.cli.jobs import JOBS
from metalab.core.errors import UserError
from metalab.core.signals import forwarded_to, let_warnings_come, warnings_held, warnings_survived
from metalab.tracking.provenance import COMMAND

if TYPE_CHECKING:
    from omegaconf import DictConfig

CARRIED = (COMMAND, sweeps.NOTE, "MPLBACKEND")  # of the environment, to workers that do not inherit it
START = "import sys; sys.path[:] = {path!r}; from metalab.cli.job_process import main; main()"


class Task:
    """What Hydra calls for each job: the job itself, or where jobs run side by side its process."""

    def __init__(self, command: str, place: dict[str, Any] | None = None):
        self.command, self.place = command, place

    def __reduce__(self) -> tuple[Any, ...]:
        """A launcher sends it to another process, perhaps on another machine: with it goes where it was typed."""
        return type(self), (self.command, self.place or _this_place())

    def __call__(self, cfg: "DictConfig") -> Any:
        from metalab.cli import job_resume

        place = self.place or _this_place()
        os.environ.update(place["environment"])
        if self.command == "train":
            job_resume.adopt()
        return _run_apart(self.command, cfg, place) if _side_by_side() else JOBS[self.command](cfg)


def main() -> None:
    """Run the job that the worker sends through standard input, as Hydra would in the worker."""
    from hydra.core.singleton import Singleton
    from hydra.core.utils import configure_log, setup_globals
    from hydra.errors import CompactHydraException

    from metalab.cli import streams

    try:
        streams.tolerate_encodings()
        logging.raiseExceptions = False
        setup_globals()
        try:
            command, cfg, state = pickle.load(sys.stdin.buffer)
        except (EOFError, pickle.UnpicklingError):  # the worker was killed while it sent it
            sys.exit(1)
        threading.Thread(target=_end_with_worker, daemon=True).start()
        Singleton.set_state(state)
        from hydra.core.hydra_config import HydraConfig

        hydra: Any = HydraConfig.get()
        configure_log(hydra.job_logging, hydra.verbose)
        with warnings_survived():
            let_warnings_come()
            value = JOBS[command](cfg)
        sweeps.record(replace(sweeps.this_job("done"), value=value, pid=None, host=None, started=None))
    except CompactHydraException:  # told, and written down
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _run_apart(command: str, cfg: "DictConfig", place: dict[str, Any]) -> Any:
    """Run a job in a process of its own and return what it returned; CompactHydraException where it failed."""
    from hydra.core.singleton import Singleton
    from hydra.errors import CompactHydraException

    from metalab.cli.job_environment import environment

    job, sweep = sweeps.this_job(), sweeps.current()
    watched = _is_joblibs_worker(place["process"])
    if watched and os.getppid() != place["process"]:
        os._exit(1)  # the command was killed, and this is what it had queued
    if sweep is not None and sweep.stopped:
        raise CompactHydraException("the sweep was stopped before it began")
    sent = _cloudpickle().dumps((command, cfg, Singleton.get_state()))
    with warnings_held():  # which would end a process that does not handle them yet
        child = subprocess.Popen(
            [sys.executable, "-c", START.format(path=place["path"])],
            stdin=subprocess.PIPE,
            env=environment(job.number, sweep),
            cwd=place["folder"],
        )
    job = replace(job, **process(child.pid))
    sweeps.record(job)
    told = threading.Event()
    if watched:
        threading.Thread(target=_end_with_command, args=(child, place["process"], told), daemon=True).start()
    with ExitStack() as ending, child, forwarded_to(child):
        ending.callback(told.set)
        assert child.stdin is not None
        if (sweep := sweeps.current()) is not None and sweep.stopped:  # meanwhile, by who could not know of this one
            child.terminate()
        try:
            child.stdin.write(sent)
            child.stdin.flush()
        except BrokenPipeError:  # it ended before it read all: its exit code says why
            pass
        end = _outcome(job, child.wait(), command)  # before the signals are passed on, which may end this process
    if end.state != "done":
        raise CompactHydraException(end.message)
    return end.value


def _outcome(job: sweeps.Job, code: int, command: str) -> sweeps.Job:
    """Return what a job came to whose process has ended with an exit code, and see that it is written down."""
    end = sweeps.read_job(Path(job.folder))
    end = end if end is not None and (end.sweep, end.number) == (job.sweep, job.number) else job
    if end.state == "failed" or (code == 0 and end.state == "done"):
        return end
    end = replace(job, **explain(code, command, Path(job.folder)))
    how = "failed: " if end.state == "failed" else ""
    logging.getLogger("metalab").error("job %s %s%s", end.name, how, end.message)
    sweeps.record(end)
    return end


def _side_by_side() -> bool:
    """Whether this is a job of a sweep whose launcher may run others at the same time."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    job = HydraConfig.get()
    return job.mode == RunMode.MULTIRUN and job.launcher._target_ != sweeps.IN_ORDER


def _cloudpickle() -> Any:
    """Return what pickles Hydra's state, some classes of which are no module's: each launcher brings it along."""
    for name in ("cloudpickle", "joblib.externals.cloudpickle", "ray.cloudpickle"):
        with suppress(ImportError):
            return importlib.import_module(name)
    raise UserError("jobs in processes of their own need cloudpickle: pip install cloudpickle")


def _this_place() -> dict[str, Any]:
    """Return what a job has from the command line that it belongs to."""
    carried = {name: os.environ[name] for name in CARRIED if name in os.environ}
    path = [each for each in sys.path if each]
    return {"environment": carried, "folder": os.getcwd(), "path": path, "process": os.getpid()}


def _end_with_worker() -> None:
    """Wait for the end of standard input, then have the job save and leave."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _is_joblibs_worker(command: int) -> bool:
    """Whether this is a process that joblib began for the command; its threads, and one job at a time, are none."""
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get().launcher._target_.endswith(".JoblibLauncher") and os.getpid() != command


def _end_with_command(child: "subprocess.Popen[bytes]", command: int, told: threading.Event) -> None:
    """Have a worker's job save, and end both, where the command that launched the worker has ended before the job.

    told: that what the job came to is written down.
    """
    while not told.wait(1):
        if os.getppid() != command:  # killed, for else it waits for its workers
            child.terminate()
            told.wait()
            os._exit(1)
