"""`metalab eval`: measure a run's best checkpoint on many episodes of unseen classes."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from metalab.algorithms.objectives.build import by_way, objective
from metalab.algorithms.objectives.prediction import PREDICTIONS
from metalab.config.experiment import ExperimentConfig, read_config
from metalab.core.errors import UserError
from metalab.core.optional_output import optional_output
from metalab.core.signals import warnings_survived
from metalab.data.sampling.build import Source
from metalab.engines.learn2learn import Learn2Learn
from metalab.evaluation import classification, data_protocol, open_set, untrained
from metalab.evaluation import robustness as robust
from metalab.evaluation.class_reporting import ClassReporting
from metalab.evaluation.extra_metrics import Metrics, extra_metrics, extra_metrics_task
from metalab.evaluation.measure import measure
from metalab.evaluation.objectives import measured_objective, robust_objective
from metalab.evaluation.setup import EvaluationSetup, build_evaluation_setup
from metalab.tracking import class_report, eval_report, time_estimate
from metalab.tracking.class_report import ClassReport
from metalab.tracking.run_lock import locked_run

logger = logging.getLogger("metalab")
AGAIN = "episodes of the train split that are drawn apart from those of training"


def run(runs: Sequence[tuple[Path | None, DictConfig]], out: Path) -> float:
    """Evaluate each run, or pretrained backbone without one (None), as its config says.

    Write the report to out, and return the mean accuracy, a fraction.
    """
    with locked_run(out), warnings_survived():
        results = [
            _evaluate_run(folder, _without_folds(read_config(cfg)), i == 0) for i, (folder, cfg) in enumerate(runs)
        ]
        records, accuracies, classes = zip(*results, strict=True)
        eval_report.write(out, records, accuracies)
        class_report.write(out, records[0]["split"], classes)
    return float(np.mean([accuracy.mean() for accuracy in accuracies]))


def _without_folds(config: ExperimentConfig) -> ExperimentConfig:
    """Return the configuration; UserError where it asks for folds, each of which is trained."""
    if config.eval.folds is not None:
        raise UserError(
            f"eval.folds={config.eval.folds}: a net is trained for each fold, by metalab train eval.folds="
            f"{config.eval.folds}; its folds are evaluated as any runs, run=[RUN/fold0,RUN/fold1]"
        )
    return config


def _evaluate_run(
    folder: Path | None, config: ExperimentConfig, pictures: bool
) -> tuple[dict[str, Any], np.ndarray, ClassReport | None]:
    """Return a run's record, the accuracy of each episode, and the report of its classes, with pictures or without."""
    t = build_evaluation_setup(folder, config)
    reporting = ClassReporting(t)
    what = "images" if t.split.by_image else "episodes"
    logger.info(
        f"{folder or untrained.backbone_words(config)}: {t.evaluation.episodes} {what} of {len(t.split.ids)} "
        f"{t.evaluation.split} classes, bn={t.bn}"
    )
    if warning := _cost_warning(t):
        logger.warning(warning)
    source = t.source(t.task)
    objective = by_way(
        t.task,
        t.test_algorithm,
        lambda algo, way: reporting.objective(measured_objective(t.algo, algo, t.bn, way, t.terms)),
    )
    torch.manual_seed(config.seed)  # of heads that are drawn for each task
    accuracy, loss = measure(reporting.watch(t.outcomes(objective, source, what)), t.evaluation.episodes)
    row = _report_fields(t) | {"loss": float(loss.mean()), **_extra_metrics(t)}
    row |= _open_set(t)
    if t.attacks.built:
        row["attacks"] = _attacked(t, source)
    notes = _notes(t, int((~np.isfinite(loss)).sum()))
    row |= {"note": "; ".join(notes)} if notes else {}
    row |= {"overlap": t.overlap} if t.overlap else {}
    row |= data_protocol.protocol_metrics(t.split, accuracy, source)
    facts, classes = {}, None
    with optional_output("the report of the classes"):
        facts, classes = reporting.report(objective, source, accuracy, pictures)
    return row | facts, accuracy, classes


def _notes(t: EvaluationSetup, lost: int) -> list[str]:
    """Return what a referee must know, sorted; lost: how many episodes, or images, have no numbers as predictions."""
    trained = t.saved["data"]["note"]
    notes = {t.note, t.split.note, t.saved["data"].get("weights", ""), classification.NOTE if t.split.by_image else ""}
    notes.add(AGAIN if t.evaluation.split == "train" and not t.split.by_image else "")
    notes |= {f"trained on: {trained}"} if trained and trained != t.split.note else set()
    notes |= {f"adapted to supports that {t.terms.inner_attack} attacked"} if t.terms.inner_attack else set()
    if t.attacks.built:
        notes.add(robust.batch_norm_note(t.bn, t.saved["config"]["train"].get("bn") or "batch") if t.normed else "")
        notes |= robust.support_attack_notes(t.attacks)
    if lost:
        of = f"{t.evaluation.episodes} {'images' if t.split.by_image else 'episodes'}"
        notes.add(f"{lost} of {of} have predictions that are no numbers, which count as wrong")
    return sorted(notes - {""})


def _cost_warning(t: EvaluationSetup) -> str | None:
    """Return what the evaluation will take where its numbers are very large, else None."""
    passes, made_of = 1 + t.algo.steps, {"eval.episodes": t.evaluation.episodes}
    made_of |= {"algo.test_steps": t.algo.steps} if t.algo.steps > 100 else {}
    for (name, _), attack in t.attacks.built.items():
        passes += attack.steps or 1
        made_of |= {f"attack.{name}.steps": attack.steps} if (attack.steps or 0) > 100 else {}
    images = 1 if t.split.by_image else t.task.way * (t.task.shot + t.task.query)
    channels, side, _ = t.saved["shape"]
    return time_estimate.long_run_warning(
        t.net, images, (channels, side), t.evaluation.episodes * passes, time_estimate.HOUR, made_of
    )


def _attacked(t: EvaluationSetup, source: Source) -> list[dict[str, Any]]:
    """Return a record for each attack and eps, on the episodes of the clean measurement."""
    torch.manual_seed(t.config.seed)  # of the random starts
    drop = isinstance(t.engine, Learn2Learn)
    attacked = by_way(
        t.task, t.test_algorithm, lambda algo, way: robust_objective(t.algo, algo, t.bn, t.attacks, t.terms, drop)
    )
    return robust.records(t.attacks, t.outcomes(attacked, source, "attacked"), t.evaluation.episodes)


def _open_set(t: EvaluationSetup) -> dict[str, Any]:
    """Return how well queries of other classes are told from the episodes' own; nothing where that is not asked for."""
    unknown = t.evaluation.unknown
    if unknown is None:
        return {}
    if t.split.by_image or t.split.fixed is not None:
        raise UserError(f"eval.unknown={unknown}: the data fixes what is tested, and has no room for other classes")
    more = open_set.open_set_task(t.task, unknown)
    inner = t.terms.inner(t.algo.loss)
    measured = open_set.OpenSetObjective(t.test_algorithm, t.algo.steps, inner, PREDICTIONS[t.bn], t.task.way)
    torch.manual_seed(t.config.seed)
    source = open_set.with_unknown(t.source(more), t.task.way)
    return open_set.open_set_metrics(lambda e: t.outcome(measured, e), source, t.evaluation.episodes, unknown)


def _report_fields(t: EvaluationSetup) -> dict[str, Any]:
    """Return what was evaluated, and how; bn is None for a net without batch norm."""
    bn = t.bn if t.normed else None
    return {
        "run": None if t.folder is None else str(t.folder),
        **data_protocol.sizes(t.task),
        "split": t.config.eval.split,
        "data": t.config.data["_target_"].rpartition(".")[2].lower(),
        "trained_on": None if t.folder is None else t.saved["config"]["data"]["_target_"].rpartition(".")[2].lower(),
        "algo": t.config.algo["name"],
        "bn": bn,
        "transductive": bn == "batch",
        "seed": t.config.seed,
        "train_seed": None if t.folder is None else t.saved["config"]["seed"],
        "step": t.saved["state"]["step"],
        "checkpoint": untrained.backbone_words(t.config) if t.folder is None else str(t.folder / "best.pt"),
    }


def _extra_metrics(t: EvaluationSetup) -> Metrics:
    """Return what the algorithm's further objective shows; nothing where it names none or the data gives episodes."""
    algo = t.algo
    if algo.besides is None or t.split.fixed is not None or not t.task.fixed:
        return {}
    other = objective(algo.besides, t.test_algorithm, algo.steps, algo.loss, algo.loss, t.bn)
    source = t.source(extra_metrics_task(t.task, algo, t.split))
    return extra_metrics(lambda episodes: t.outcome(other, episodes), source, t.evaluation.episodes)
