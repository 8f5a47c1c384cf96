"""What each command does with a configuration that Hydra has composed, and how its mistakes are told."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalab.cli import streams, torchrun
from metalab.core.errors import UserError
from metalab.distributed.processes import several

if TYPE_CHECKING:  # --help and TAB must be quick: whatever is heavy is imported where it is used
    from omegaconf import DictConfig

    from metalab.cli.sweeps import Job


class Defect(Exception):
    """What a job raised that is no mistake of the user's: its cause is shown with its traceback."""


def _train(cfg: "DictConfig") -> float:
    with _mistakes_told(), _parts_named():
        from metalab.cli import job_resume, run_overrides
        from metalab.training import train

        out = run_overrides.out()
        cfg = job_resume.own_config(cfg, out)
        if several():
            return torchrun.train(cfg, out)
        if cfg.resume is not None:
            cfg.resume = str(out)  # runs.prepare made the resumed folder the output folder
        if cfg.train.phases is not None:
            from metalab.cli.phases import compose_phases
            from metalab.training import phases

            return phases.run(cfg, compose_phases(cfg, out), out)
        return train.run(cfg, out)


def _evaluate(cfg: "DictConfig") -> float:
    with _mistakes_told(), _parts_named():
        from metalab.cli import run_overrides

        pairs = run_overrides.compose_each(cfg)
        from metalab.evaluation import evaluate  # only now: it loads torch, and there may be nothing to evaluate

        return evaluate.run(pairs, run_overrides.out())


def _compare(cfg: "DictConfig") -> float:
    with _mistakes_told(), _parts_named():
        from metalab.cli import compared, run_overrides

        by_data = compared.compose_by_data(cfg)
        from metalab.evaluation import compare  # only now: it loads torch, and there may be nothing to compare

        return compare.run(by_data, run_overrides.out())


def _predict(cfg: "DictConfig") -> float:
    with _mistakes_told(), _parts_named():
        from metalab.cli import run_overrides

        pairs = run_overrides.compose_members(cfg, "predict")
        from metalab.serving import predict  # only now: it loads torch

        return predict.run(pairs, run_overrides.out())


def _demo(cfg: "DictConfig") -> None:
    with _mistakes_told(), _parts_named():
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from metalab.cli import run_overrides

        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise UserError("demo shows one page until Ctrl-C: leave out -m")
        pairs = run_overrides.compose_each(cfg, "demo")
        if len(pairs) > 1:
            raise UserError(f"demo begins with one run, and run names {len(pairs)}: the page switches between runs")
        typed = run_overrides.words_for_other_runs()
        from metalab.serving.demo import job  # only now: it loads torch

        job.run(*pairs[0], run_overrides.out(), lambda folder: run_overrides.compose_run(folder, "demo", typed))


def _export(cfg: "DictConfig") -> float:
    with _mistakes_told(), _parts_named():
        from metalab.cli import run_overrides

        pairs = run_overrides.compose_members(cfg, "export")
        from metalab.serving import export  # only now: it loads torch

        return export.run(pairs, run_overrides.out())


JOBS = {"train": _train, "eval": _evaluate, "compare": _compare, "predict": _predict, "export": _export, "demo": _demo}


@contextmanager
def _parts_named() -> Iterator[None]:
    """Import meanwhile no part that is not metalab's, but those that this command names."""
    from metalab.cli import allowed_imports, run_overrides
    from metalab.config import import_policy

    with import_policy.allow_only(allowed_imports.named_parts(run_overrides.words(), run_overrides.GROUPS)):
        yield


@contextmanager
def _mistakes_told() -> Iterator[None]:
    """Leave a run with a message and no traceback at a UserError; in a sweep name the job and let the rest go on."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    from metalab.cli import sweeps

    job = HydraConfig.get()
    swept = job.mode == RunMode.MULTIRUN
    this = sweeps.this_job()
    if swept:
        sweeps.record(this)
    streams.log_in_utf8()
    try:
        if job.job.chdir:
            raise UserError("hydra.job.chdir=true: runs and data are found from the folder you are in; leave it out")
        yield
        if swept:
            sweeps.record(replace(this, state="done"))
    except (SystemExit, KeyboardInterrupt) as stop:
        if swept:
            sweeps.record(replace(this, **_stopped(stop, this)))
        raise
    except Exception as error:
        error = _named(error)
        mistake = isinstance(error, (UserError, OmegaConfBaseException, PermissionError))
        if not swept:
            if mistake:
                sys.exit(f"metalab: {error}")
            raise Defect from error
        message = str(error) if mistake else f"{type(error).__name__}: {error}"
        logging.getLogger("metalab").error("job %s failed: %s", this.name, message, exc_info=not mistake)
        sweeps.record(replace(this, state="failed", message=message))
        raise CompactHydraException(message) from None  # the one kind that Hydra shows without a traceback


def _stopped(stop: SystemExit | KeyboardInterrupt, job: "Job") -> dict[str, Any]:
    """Return the state and the message of a job of a sweep that left with an exit code, or was interrupted."""
    from metalab.cli import sweeps
    from metalab.cli.job_end import explain

    code = stop.code if isinstance(stop, SystemExit) else 128 + signal.SIGINT
    if not isinstance(code, int):
        return {"state": "failed", "message": str(code)}
    plan = sweeps.current()
    return explain(code, plan.command if plan is not None else "", Path(job.folder))


def _named(error: Exception) -> Exception:
    """Return the error, as a UserError where it is the machine's: too little memory, a full disk."""
    if isinstance(error, OSError) and error.errno in streams.FULL:
        return UserError(f"{error}: make room on that disk; a training goes on from its last.pt with resume=")
    if isinstance(error, (MemoryError, RuntimeError)):
        from metalab.engines.vectorized import out_of_memory

        if isinstance(error, MemoryError) or out_of_memory(error):
            return UserError(
                f"the memory is too small ({str(error).splitlines()[0] if str(error) else 'MemoryError'}): try fewer "
                "episodes at once (train.meta_batch, eval.batch), fewer queries (task.query), fewer inner steps "
                "(algo.steps), smaller images (data.size) or a smaller backbone"
            )
    return error
