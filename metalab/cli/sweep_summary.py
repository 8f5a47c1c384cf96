"""What is said at the end of a sweep, by what stands in the folders of its jobs."""

import sys
from pathlib import Path

from metalab.cli import stopping, sweeps
from metalab.cli.job_records import jobs_below

SEARCH = "search.db"  # what a search goes on by, in its folder: conf/hydra/sweeper/search.yaml


def tell(command: str) -> None:
    """Say which jobs failed and which came to no end, and show the matrix of evaluations; the sweep is then over."""
    jobs, plan, folder = sweeps.jobs(), sweeps.current(), sweeps.current_folder()
    stopping.uninstall()
    sweeps.forget()
    done = [(Path(job.folder), job.words) for job in jobs if job.state == "done"]
    if command == "eval" and len(jobs) > 1 and done:
        from metalab.core.optional_output import optional_output
        from metalab.tracking import sweep_table

        with optional_output("matrix.csv"):
            sweep_table.write(done, [job.words for job in jobs])
    if failed := [f"  {job.name}: {job.message}" for job in jobs if job.state == "failed"]:
        sys.stderr.write("\n".join([f"metalab: {len(failed)} of the sweep's jobs failed:", *failed, ""]))
    if plan is None or folder is None or not jobs:
        return
    began = {job.number for job in jobs_below(folder) if plan.has(job)}
    open_ = [f"  {job.name}: {_how(job)}" for job in jobs if job.state not in ("done", "failed")]
    open_ += [f"  #{k} {' '.join(each)}: never began" for k, each in enumerate(plan.jobs or ()) if k not in began]
    if open_:
        sys.stderr.write("\n".join([f"metalab: {len(open_)} of the sweep's jobs came to no end:", *open_, ""]))
    if plan.jobs is None:  # a search
        if open_ and (Path(folder) / SEARCH).is_file():
            sys.stderr.write(f"metalab: the same command with hydra.sweep.dir={_shown(folder)} goes on\n")
        return
    saved = any((Path(job.folder) / "last.pt").is_file() for job in jobs if job.state == "failed")
    if command == "train" and (open_ or saved):
        sys.stderr.write(f"metalab: metalab train resume={_shown(folder)} goes on with what is not finished\n")


def _how(job: sweeps.Job) -> str:
    if job.state == "running":
        return f"still runs, process {job.pid} on {job.host}" if job.alive else "its process was ended from outside"
    return job.message or "never began"


def _shown(folder: Path) -> str:
    """Return a folder as one would type it here."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
