"""`metalab eval ensemble=...`: several nets on the same episodes, alone and as one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metalab.algorithms.objectives.prediction import correct
from metalab.config.experiment import ExperimentConfig
from metalab.config.schema import EPISODES_AT_ONCE
from metalab.config.validate import check_type
from metalab.core.errors import UserError
from metalab.core.optional_output import optional_output
from metalab.data.sampling.build import Source
from metalab.evaluation.ensemble import combine
from metalab.evaluation.ensemble.alphas import recorded_alphas
from metalab.evaluation.ensemble.measured import labels_of, measured
from metalab.evaluation.ensemble.members import Member, build_members, members_of, refuse_other_episodes
from metalab.evaluation.ensemble.record import ensemble_record
from metalab.evaluation.ensemble.stacking import fit_weights
from metalab.evaluation.setup import EvaluationSetup, build_evaluation_setup
from metalab.evaluation.split_metrics import split_metrics
from metalab.tracking import class_report, ensemble_report
from metalab.tracking.class_report import ClassReport

logger = logging.getLogger("metalab")
How = Literal["mean", "vote", "stacking", "samme"]
Describe = Callable[[EvaluationSetup, np.ndarray], dict[str, Any]]  # a member and its losses -> its record


def run(runs: Sequence[tuple[Path | None, ExperimentConfig]], how: str, out: Path, describe: Describe) -> float:
    """Evaluate runs alone and as an ensemble, write the report to out, and return the ensemble's accuracy, a fraction.

    Args:
        runs: their folders, and their settings under the words of the command line.
        how: mean, vote, stacking or samme.
        out: an existing folder.
        describe: what makes the record of a member.

    Raises:
        UserError: before any of it is measured, where the runs cannot be one ensemble.
    """
    check_type(how, How, "ensemble")
    members = members_of(runs)
    setups = build_members(members, how)
    weights = _weights(members, how)
    found = []
    for member, t in zip(members, setups, strict=True):
        logger.info(
            f"{member.path}: {t.evaluation.episodes} {t.protocol.unit} of {len(t.split.ids)} classes, bn={t.bn}"
        )
        found.append(measured(t))
    first = setups[0]
    source = first.source(first.task)
    labels = labels_of(first, found[0])
    combined = [combined_logits(how, each, weights) for each in zip(*(m.logits for m in found), strict=True)]
    accuracy, loss = _judged(combined, labels, first.evaluation.episodes)
    rows = [describe(t, m.loss) for t, m in zip(setups, found, strict=True)]
    record = ensemble_record(how, rows, [m.accuracy for m in found], accuracy, loss, weights)
    record |= split_metrics(first.split, accuracy, source)
    report = None
    with optional_output("the report of the classes"):
        facts, report = _class_report(first, source, combined, accuracy)
        record |= facts
    ensemble_report.write(out, record, [m.accuracy for m in found], accuracy)
    class_report.write(out, record["split"], [report])
    return float(accuracy.mean())


def combined_logits(how: str, logits: Sequence[Tensor], weights: Sequence[float] | None) -> Tensor:
    """Return the ensemble's log-probabilities, float64 [...,K], of its members' logits [...,K]."""
    if how == "mean":
        return combine.mean_probability(logits)
    if how == "stacking":
        assert weights is not None
        return combine.weighted(logits, weights)
    return combine.votes(logits, weights)


def _weights(members: Sequence[Member], how: str) -> list[float] | None:
    """Return the weight of each member; None: they count alike."""
    if how == "samme":
        return recorded_alphas([member.folder for member in members])
    return _fitted(members) if how == "stacking" else None


def _fitted(members: Sequence[Member]) -> list[float]:
    """Return the weights of stacking, fitted on the runs' validation episodes or images; no test image is loaded."""
    split = members[0].config.eval.split
    if split == "val":
        raise UserError(
            "ensemble=stacking fits its weights on the validation episodes, and eval.split=val would measure it on the "
            "same: type eval.split=test, or ensemble=mean"
        )
    logits, labels = [], []
    batch = members[0].config.eval.batch or EPISODES_AT_ONCE
    first = _validation(members[0], batch)
    for member in members:
        t = first if member is members[0] else _validation(member, batch)
        refuse_other_episodes(members[0], first, member, t)
        found = measured(t)
        logger.info(f"{member.path}: {t.evaluation.episodes} validation {t.protocol.unit} for the weights of stacking")
        logits.append(found.logits)
        labels = labels or labels_of(t, found)
    weights = fit_weights(logits, labels)
    logger.info(f"weights of stacking: {', '.join(f'{w:.3g}' for w in weights)}")
    return weights


def _validation(member: Member, batch: int) -> EvaluationSetup:
    """Return what measures a member on its validation episodes, or, of a plain classifier, on its validation images."""
    plain = member.config.data.get("protocol") == "images"  # its classes were trained on, and their other images not
    own = replace(member.config.eval, split="val", batch=batch, allow_overlap=member.config.eval.allow_overlap or plain)
    t = build_evaluation_setup(member.folder, replace(member.config, eval=own), member.checkpoint)
    what = f"ensemble=stacking: {member.folder}"
    t.protocol.refuse_other_validation(t.split, t.saved, what, "type ensemble=mean")
    return t


def _judged(combined: Sequence[Tensor], labels: Sequence[Tensor], episodes: int) -> tuple[np.ndarray, float]:
    """Return the accuracy of each episode, float64 [E], and the mean negative log-likelihood of all queries."""
    pairs = list(zip(combined, labels, strict=True))
    accuracy = torch.cat([correct(made, y).double().mean(1) for made, y in pairs])[:episodes]
    loss = torch.cat([-made.gather(-1, y[..., None])[..., 0].mean(1) for made, y in pairs])[:episodes]
    return accuracy.numpy(), float(loss.mean())


def _class_report(
    t: EvaluationSetup, source: Source, combined: list[Tensor], accuracy: np.ndarray
) -> tuple[dict[str, Any], ClassReport | None]:
    """Return what belongs into eval.json of the classes, and what is written beside it."""
    if not t.evaluation.report:
        return {}, None
    seen = t.image_source(t.task) if t.images is not t.split else source
    return t.protocol.report(
        t.split, t.task, seen, [t.protocol.judged(part) for part in combined], accuracy, None, True
    )
