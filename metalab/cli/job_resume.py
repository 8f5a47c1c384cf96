"""What a job does that has begun before: it goes on in its folder, under its own number and words.

It is one of a sweep that goes on (sweep_resume), or its scheduler starts it a second time, as submitit does with one
that was preempted: it then finds its own record in its folder, by the sweep's id and its number.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from metalab.cli import run_overrides, suggestions, sweeps
from metalab.cli.sweep_jobs import holds_run
from metalab.core.errors import UserError


def adopt() -> None:
    """Note that the job which begins has begun before, where it has, and give it its number and words in the sweep.

    To be called before the job writes its own record.
    """
    job = HydraConfig.get()
    known = sweeps.read_job(Path(job.runtime.output_dir))
    if job.mode != RunMode.MULTIRUN or known is None or known.sweep != sweeps.this_job().sweep:
        return
    sweeps.record(replace(known, again=True))
    typed = _typed()
    if len(typed) < len(job.overrides.task):  # of a sweep that goes on
        kept = {_key(word) for word in typed}
        own = [word for word in known.words if _key(word) not in kept]
        _set(known.number, [*_going_on(), *typed] if holds_run(Path(job.runtime.output_dir)) else [*own, *typed])
        sweeps.record(replace(known, again=True, words=[*own, *typed]))


def own_config(cfg: DictConfig, out: Path) -> DictConfig:
    """Return the configuration of the job in a folder as itself was begun, where it is one that goes on, else cfg.

    Raises:
        UserError: where its words do not fit together any more.
    """
    known = sweeps.read_job(out) if HydraConfig.get().mode == RunMode.MULTIRUN else None
    if known is None or not known.again or known.sweep != sweeps.this_job().sweep:
        return cfg
    typed = _typed()
    if holds_run(out):
        if cfg.resume is None and cfg.train.phases is None:  # a scheduler's second start, with the same words
            with open_dict(cfg):
                cfg.resume = str(out)
            return cfg
        if cfg.resume is None:
            _set(known.number, _going_on())
        found = run_overrides.compose_training(out, typed if cfg.resume is not None else [])
        with open_dict(found):
            found.resume = str(out)
        return found
    if cfg.resume is None:
        return cfg
    words = run_overrides.words()
    try:
        return hydra.compose("train", overrides=words)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(suggestions.explain_hydra_error(error, "train", words)) from error


def _typed() -> list[str]:
    """Return the words of this job that are no sweep's that goes on."""
    return [word for word in run_overrides.words() if _key(word) != "resume"]


def _going_on() -> list[str]:
    return [f"resume={QuotedString(str(run_overrides.out()), Quote.single).with_quotes()}"]


def _set(number: int, words: list[str]) -> None:
    cfg: Any = HydraConfig.instance().cfg
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.job.num, cfg.hydra.overrides.task = number, words


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")
