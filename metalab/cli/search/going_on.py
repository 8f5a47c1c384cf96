"""A search that goes on: whether its folder holds the same one, and what becomes of the trials that were left open."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from metalab.cli import sweeps
from metalab.core.errors import UserError

ASKED, KILLED = "asked", "killed"  # attributes of a study: its words and space; the trials that were broken off


def refuse_other(study: optuna.Study, asked: dict[str, Any], folder: Path) -> None:
    """Note what a search was asked for; UserError where the folder's was asked for something else."""
    before = study.user_attrs.get(ASKED, asked)
    if before != asked:
        told = [
            f"{' '.join([*each['words'], *each.get('fixed', ())])} over {', '.join(each['space'])}"
            for each in (before, asked)
        ]
        raise UserError(
            f"{folder} holds another search ({told[0]}; now it is {told[1]}): type the same words to go on with it, "
            "or give this one another folder, as hydra.sweep.dir=outputs/train/another"
        )
    study.set_user_attr(ASKED, asked)


def end_broken(study: optuna.Study, folder: Path) -> list[dict[str, Any]]:
    """End the trials that an earlier start left open, and return the values of those that had not finished."""
    jobs = {job.number: job for job in sweeps.jobs_below(folder)}
    killed, broken = set(study.user_attrs.get(KILLED, [])), list[dict[str, Any]]()
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        job = jobs.get(trial.number)
        if job is not None and _finished(job, trial):
            study.tell(trial.number, job.value)
            continue
        killed.add(trial.number)
        study.set_user_attr(KILLED, sorted(killed))
        study.tell(trial.number, state=TrialState.FAIL)
        broken.append(trial.params)
    return broken


def enqueue(study: optuna.Study, points: Sequence[dict[str, Any]]) -> None:
    """Have the next trials take these values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for point in points:
            study.enqueue_trial(point)


def word(text: str) -> str:
    """Return a word as Hydra reads it, of one as Optuna writes it: null is called so, and not None."""
    return f"{text.removesuffix('None')}null" if text.endswith("=None") else text


def _finished(job: sweeps.Job, trial: FrozenTrial) -> bool:
    """Whether a job is a trial's, by its values, and came to its end."""
    own = {word(f"{key}={value}") for key, value in trial.params.items()}
    return job.state == "done" and isinstance(job.value, float) and own <= set(job.words)
