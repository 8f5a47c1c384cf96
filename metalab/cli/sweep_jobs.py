"""Which jobs a sweep has that goes on, in which folders, by sweep.json, job.json and Hydra's multirun.yaml."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metalab.cli.job_records import BY_NUMBER, Job, Sweep, jobs_below, read_job, read_plan
from metalab.core.errors import UserError
from metalab.tracking.run_folder import find_phases, generations_in

HYDRAS = "multirun.yaml"  # what Hydra writes into a sweep's folder


def find_plan(folder: Path) -> Sweep | None:
    """Return what a sweep was to do, of an older one by Hydra's record; None where the folder is no sweep's.

    Raises:
        UserError: where that record is none of Hydra's.
    """
    if (plan := read_plan(folder)) is not None:
        return plan
    path = folder / HYDRAS
    if not path.is_file():
        return None
    from metalab.cli import hydra_private

    try:
        read = OmegaConf.load(path)
        made = read.hydra
        jobs = hydra_private.split_sweep(made.sweeper, list(made.overrides.task))
        return Sweep("", str(made.job.name), jobs, subdir=typed_subdir(made))
    except (HydraException, OmegaConfBaseException, ValueError, AttributeError, LookupError, OSError) as error:
        raise UserError(f"{path}: expected what Hydra writes of a sweep, and found something else ({error})") from error


def typed_subdir(hydra: Any) -> str:
    """Return hydra.sweep.subdir, which has a value in a job alone, as it was typed."""
    sweep = OmegaConf.to_container(hydra.sweep, resolve=False)
    return str(sweep["subdir"]) if isinstance(sweep, dict) else BY_NUMBER


def every_job(folder: Path, plan: Sweep) -> list[Job]:
    """Return all jobs of a sweep, by number, those that never began in folders of their numbers.

    Raises:
        UserError: where such a folder has another name, or is another job's.
    """
    begun = {job.number: job for job in jobs_below(folder) if plan.has(job)}
    never = [number for number in range(len(plan.jobs or ())) if number not in begun]
    if never and plan.subdir != BY_NUMBER:
        raise UserError(
            f"{folder}: hydra.sweep.subdir={plan.subdir} names the folders of its jobs, and #{never[0]} has none that "
            "resume could know: go on with one job, as resume=FOLDER, and type those that never began as a new sweep"
        )
    for number in never:
        begun[number] = _never_begun(folder / str(number), number, (plan.jobs or [])[number])
    return [begun[number] for number in sorted(begun)]


def _never_begun(folder: Path, number: int, words: list[str]) -> Job:
    """Return a job without a record as its run says, where there is one: an older sweep's has no job.json."""
    from metalab.tracking import provenance

    job = Job(str(folder), number, words, "waiting")
    if (other := read_job(folder)) is not None:
        if other.number != number or holds_run(folder):
            raise UserError(
                f"#{number} {' '.join(words)} never began, and its folder, {folder}, is that of another sweep's job, "
                f"{other.name}: move that elsewhere"
            )
        return job  # who had it failed before there was a run
    made = provenance.read(folder)
    return replace(job, state="done") if made.get("finished") and not made.get("failed") else job


def holds_run(folder: Path) -> bool:
    """Whether a training in a folder can go on: its own, or a phase or generation of it."""
    names = ("last.pt", "best.pt")
    return (
        any((folder / name).is_file() for name in names)
        or find_phases(str(folder)) is not None
        or bool(generations_in(folder))
    )
