"""What the jobs of a sweep came to, read from their folders: right under every launcher, wherever a job ran."""

import os
import sys
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from metalab.cli.job_records import (
    BY_NUMBER,
    PLAN,
    RECORD,
    Job,
    Sweep,
    jobs_below,
    process,
    process_lives,
    read_job,
    read_plan,
    running_in,
    write,
)
from metalab.cli.sweep_jobs import holds_run, typed_subdir
from metalab.core.errors import UserError

__all__ = ["RECORD", "Job", "Sweep", "process_lives", "read_job", "read_plan"]

NOTE = "METALAB_SWEEP"  # the variable of the environment that has ID:FOLDER of this command's sweep
IN_ORDER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # the launcher that runs jobs in this process


class NoteSweep(Callback):
    """Note, before its first job, where a sweep is and what it is to do: in conf/train.yaml, hydra.callbacks."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        from metalab.cli import stopping, sweep_resume

        try:
            if not sweep_resume.begin():
                _begin_anew(config)
        except OSError as error:  # what is no SystemExit Hydra makes a warning of
            sys.exit(f"metalab: {error}")
        if config.hydra.launcher._target_ != IN_ORDER:
            _fix_folder(config, Path(config.hydra.sweep.dir).absolute())
        stopping.install(config.hydra.launcher._target_)


def _begin_anew(config: DictConfig) -> None:
    """Note a sweep that does not go on; one message and the end where its folder holds another one."""
    from metalab.cli import hydra_private

    folder, command = Path(config.hydra.sweep.dir), "".join(sys.argv[1:2])
    jobs = hydra_private.split_sweep(config.hydra.sweeper, list(config.hydra.overrides.task))
    if refusal := _refusal(folder, command, jobs):
        sys.exit(f"metalab: {refusal}")
    begins, subdir = None if jobs is None else len(jobs), typed_subdir(config.hydra)
    if subdir == BY_NUMBER:
        _refuse_taken_folders(folder, command, jobs or [])
    begin(folder.absolute(), Sweep("", command, jobs, subdir=subdir, begins=begins))


def _refuse_taken_folders(folder: Path, command: str, jobs: list[list[str]]) -> None:
    """One message and the end where a job's folder is a run's that is no sweep's: Hydra would write over its .hydra."""
    from metalab.tracking.run_folder import refuse_existing_run, refuse_generations
    from metalab.tracking.run_lock import refuse_busy

    for number in range(len(jobs)):
        try:
            refuse_busy(folder / str(number))
            if command == "train":
                refuse_existing_run(folder / str(number))
                refuse_generations(folder / str(number))
        except UserError as error:
            sys.exit(f"metalab: {error}")


def _refusal(folder: Path, command: str, jobs: list[list[str]] | None) -> str | None:
    """Say why a sweep cannot begin in a folder; None: it can, as where all jobs of an earlier one failed at once."""
    if (plan := read_plan(folder)) is None:
        return None
    other = "a sweep of its own has a folder of its own, as hydra.sweep.dir=outputs/train/another"
    if runs := running_in(folder):
        return f"{folder} holds a sweep that still runs ({runs}): wait for it or stop it; {other}"
    if plan.command != command:
        return f"{folder} holds a sweep of metalab {plan.command}: {other}"
    if command != "train" or (plan.jobs is None and jobs is None):  # a search goes on by the same words
        return None
    if any(holds_run(Path(job.folder)) for job in jobs_below(folder)):
        return (
            f"{folder} already holds a sweep: metalab train resume={folder} goes on with what is not finished; {other}"
        )
    return None


def _fix_folder(config: DictConfig, folder: Path) -> None:
    """Let workers, whose current folder may be another one (Ray's is where its head began), write into the sweep's."""
    path = QuotedString(str(folder), Quote.single).with_quotes()
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={path}")  # each job is composed anew with these


def begin(folder: Path, plan: Sweep) -> Sweep:
    """Note that this command's sweep begins, or goes on, in a folder, and draw its id."""
    sweep = replace(plan, id=uuid.uuid4().hex, **process(os.getpid()))
    with suppress(OSError):  # Hydra, which writes there next, says what is wrong with the folder
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / PLAN, sweep)
    os.environ[NOTE] = f"{sweep.id}:{folder}"
    return sweep


def current_folder() -> Path | None:
    """Return the folder of this command's sweep; None where there is none."""
    note = os.environ.get(NOTE)
    return Path(note.partition(":")[2]) if note else None


def current() -> Sweep | None:
    """Return the sweep of this command; None where there is none. Of its plan another one may have taken the place."""
    if (folder := current_folder()) is None:
        return None
    known, plan = os.environ[NOTE].partition(":")[0], read_plan(folder)
    return plan if plan is not None and plan.id == known else Sweep(known, "", None)


def this_job(state: Literal["running", "done"] = "running") -> Job:
    """Return the job that Hydra runs in this process, or that a child of it is to run."""
    job, sweep = HydraConfig.get(), current()
    number = job.job.num if job.mode == RunMode.MULTIRUN else 0
    known = sweep.id if sweep is not None else ""
    words, again = list(job.overrides.task), False
    before = read_job(Path(job.runtime.output_dir))
    if before is not None and (before.sweep, before.number) == (known, number):
        words, again = before.words, before.again  # a sweep that goes on has others: resume=
    return Job(job.runtime.output_dir, number, words, state, sweep=known, again=again, **process(os.getpid()))


def record(job: Job) -> None:
    """Write down what a job came to, in its folder; a job that could not is one that came to no end.

    What is there of another sweep's job stays where that runs, or has trained.
    """
    folder = Path(job.folder)
    before = read_job(folder)
    other = before if before is not None and before.sweep != job.sweep else None
    if other is not None and (other.alive_here or (other.state == "done" and holds_run(folder))):
        return
    with suppress(OSError):
        write(folder / RECORD, job)


def jobs() -> list[Job]:
    """Return the jobs of this command's sweep by their numbers; none where there was no sweep.

    A folder that an earlier sweep had as well holds its jobs, too: those that this one has not begun are left out.
    """
    sweep, folder = current(), current_folder()
    return [] if sweep is None or folder is None else [job for job in jobs_below(folder) if job.sweep == sweep.id]


def stop() -> None:
    """Note that no further job of this command's sweep is to begin."""
    sweep, folder = current(), current_folder()
    if sweep is not None and folder is not None and sweep.command:
        with suppress(OSError):
            write(folder / PLAN, replace(sweep, stopped=True))


def forget() -> None:
    """Take away the note of where this command's sweep is."""
    os.environ.pop(NOTE, None)
