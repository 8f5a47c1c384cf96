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
from metalab.data.identity.imagenet_duplicates import imagenet_note, leaves_duplicates_out
from metalab.data.sampling.all_way import AllWayEpisodes
from metalab.data.sampling.build import Source
from metalab.engines.learn2learn import Learn2Learn
from metalab.evaluation import open_set, transductive, untrained
from metalab.evaluation import robustness as robust
from metalab.evaluation.all_way.objective import AllWayObjective, chunk_size
from metalab.evaluation.class_reporting import ClassReporting
from metalab.evaluation.corruptions import measured as corruptions
from metalab.evaluation.ensemble import evaluation as ensemble_evaluation
from metalab.evaluation.extra_metrics import Metrics, extra_metrics, extra_metrics_task
from metalab.evaluation.measure import measure
from metalab.evaluation.objectives import measured_objective, robust_objective
from metalab.evaluation.protocols.episodes import episode_sizes
from metalab.evaluation.setup import EvaluationSetup, build_evaluation_setup
from metalab.evaluation.split_metrics import split_metrics
from metalab.evaluation.transfer.domain_report import build_domain_report
from metalab.tracking import class_report, eval_report, time_estimate
from metalab.tracking.class_report import ClassReport
from metalab.tracking.run_lock import locked_run
from metalab.tracking.run_results import write_test_result

logger = logging.getLogger("metalab")
PLACES = ("root", "source_root", "target_root", "cache", "labels")  # settings of data


def run(runs: Sequence[tuple[Path | None, DictConfig]], out: Path) -> float:
    """Evaluate each run, or pretrained backbone without one (None), as its config says.

    Write the report to out, and return the mean accuracy, a fraction.
    """
    with locked_run(out), warnings_survived():
        configs = [(folder, read_config(cfg)) for folder, cfg in runs]
        configs = [(folder, config if folder is None else without_folds(config)) for folder, config in configs]
        if (how := configs[0][1].whole.get("ensemble")) is not None:
            return ensemble_evaluation.run(configs, how, out, _member_record)
        results = [_evaluate_run(folder, config, i == 0) for i, (folder, config) in enumerate(configs)]
        records, accuracies, classes = zip(*results, strict=True)
        eval_report.write(out, records, accuracies)
        class_report.write(out, records[0]["split"], classes)
    return float(np.mean([accuracy.mean() for accuracy in accuracies]))


def _member_record(t: EvaluationSetup, loss: np.ndarray) -> dict[str, Any]:
    """Return the record of an ensemble's member."""
    notes = _notes(t, int((~np.isfinite(loss)).sum()))
    row = _report_fields(t) | {"loss": float(loss.mean())} | ({"note": "; ".join(notes)} if notes else {})
    return row | ({"overlap": t.overlap} if t.overlap else {})


def without_folds(config: ExperimentConfig) -> ExperimentConfig:
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
    return evaluate_setup(t, ClassReporting(t), pictures)


def evaluate_setup(
    t: EvaluationSetup, reporting: ClassReporting, pictures: bool
) -> tuple[dict[str, Any], np.ndarray, ClassReport | None]:
    """Measure what has been built; return what _evaluate_run does."""
    folder, config = t.folder, t.config
    domains = build_domain_report(t)
    unit = t.protocol.unit if t.task.draws is None else "draws" if t.evaluation.folds is None else "folds"
    logger.info(
        f"{folder or untrained.backbone_words(config)}: {t.evaluation.episodes} {unit} of "
        f"{len(t.split.ids)} {t.evaluation.split} classes, bn={'target' if t.adapted else t.bn}"
    )
    if warning := _cost_warning(t):
        logger.warning(warning)
    source = t.source(t.task)
    objective = by_way(
        t.task,
        t.test_algorithm,
        lambda algo, way: reporting.objective(measured_objective(t.algo, algo, t.bn, way, t.terms)),
    )
    if isinstance(source, AllWayEpisodes):
        objective = _all_way(t, source)
    torch.manual_seed(config.seed)  # of heads that are drawn for each task
    accuracy, loss = measure(reporting.watch(t.outcomes(objective, source, t.protocol.unit)), t.evaluation.episodes)
    row = _report_fields(t) | {"loss": float(loss.mean()), **_extra_metrics(t)}
    row |= {} if domains is None else {"domains": domains.record(objective, accuracy, source)}
    row |= _open_set(t)
    if t.attacks.built:
        row["attacks"] = _attacked(t, source)
    corrupted = None if t.evaluation.corrupt is None else corruptions.measure_corruptions(t, source, accuracy)
    row |= {} if corrupted is None else {"corruptions": corrupted.record}
    notes = _notes(t, int((~np.isfinite(loss)).sum()))
    row |= {"note": "; ".join(notes)} if notes else {}
    row |= {"overlap": t.overlap} if t.overlap else {}
    row |= split_metrics(t.split, accuracy, source)
    facts, classes = {}, None
    with optional_output("the report of the classes"):
        facts, classes = reporting.report(objective, source, accuracy, pictures)
    if corrupted is not None and pictures:
        classes = corrupted.with_sheet(classes)
    if folder is not None and _is_own_test(t):
        write_test_result(folder, accuracy, t.saved["state"]["step"])
    return row | facts, accuracy, classes


def _all_way(t: EvaluationSetup, source: AllWayEpisodes) -> AllWayObjective:
    """Return what is measured with all classes at once; queries that are inferred together stay together."""
    measured = measured_objective(t.algo, t.test_algorithm, t.bn, t.task.way, t.terms)
    joint = transductive.is_transductive(t.test_algorithm) or (t.bn == "batch" and t.normed)
    return AllWayObjective(measured, source, None if joint else chunk_size(t.split))


def _is_own_test(t: EvaluationSetup) -> bool:
    """Whether this is a run's test as it was configured: the same data, task and method, as many episodes."""
    changed = t.attacks.built or t.overlap or t.adapted or t.evaluation.bn not in (None, t.algo.bn)
    if t.evaluation.split != "test" or changed:
        return False
    asked, own = ({**whole, "data": _without_places(whole["data"])} for whole in (t.config.whole, t.saved["config"]))
    same = all(asked.get(group) == own.get(group) for group in ("algo", "backbone", "task", "data", "reg"))
    return same and asked["eval"]["episodes"] == own["eval"]["episodes"]


def _without_places(data: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of data without where it lies, which is another on another machine."""
    return {key: value for key, value in data.items() if key not in PLACES}


def _notes(t: EvaluationSetup, lost: int) -> list[str]:
    """Return what a referee must know, sorted; lost: how many episodes, or images, have no numbers as predictions."""
    trained = t.saved["data"]["note"]
    joint = transductive.note(t.algo.name) if transductive.is_transductive(t.test_algorithm) else ""
    notes = {joint, t.note, t.split.note, t.saved["data"].get("weights", ""), *t.protocol.notes(t.evaluation.split)}
    notes |= {f"trained on: {trained}"} if trained and trained != t.split.note else set()
    notes |= {f"trained beside {unlabelled}"} if (unlabelled := t.saved["data"].get("unlabelled")) else set()
    notes |= {f"adapted to supports that {t.terms.inner_attack} attacked"} if t.terms.inner_attack else set()
    if t.attacks.built:
        notes.add(robust.batch_norm_note(t.bn, t.saved["config"]["train"].get("bn") or "batch") if t.normed else "")
        notes |= robust.support_attack_notes(t.attacks)
    notes |= corruptions.corruption_notes(t.evaluation)
    if t.saved["config"]["backbone"].get("weights") or not leaves_duplicates_out(t.saved["config"]["data"]):
        notes.add(imagenet_note(t.saved["classes"], t.split.files))
    if lost:
        of = f"{t.evaluation.episodes} {t.protocol.unit}"
        notes.add(f"{lost} of {of} have predictions that are no numbers, which count as wrong")
    return sorted(notes - {""})


def _cost_warning(t: EvaluationSetup) -> str | None:
    """Return what the evaluation will take where its numbers are very large, else None."""
    passes, made_of = 1 + t.algo.steps, {"eval.episodes": t.evaluation.episodes}
    made_of |= {"algo.test_steps": t.algo.steps} if t.algo.steps > 100 else {}
    for (name, _), attack in t.attacks.built.items():
        passes += attack.steps or 1
        made_of |= {f"attack.{name}.steps": attack.steps} if (attack.steps or 0) > 100 else {}
    passes *= 1 + corruptions.measurements(t.evaluation)
    images = t.protocol.images_of(t.task)
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
    if not t.protocol.has_support or t.split.fixed is not None:
        raise UserError(f"eval.unknown={unknown}: the data fixes what is tested, and has no room for other classes")
    more = open_set.open_set_task(t.task, unknown)
    inner = t.terms.inner(t.algo.loss)
    measured = open_set.OpenSetObjective(t.test_algorithm, t.algo.steps, inner, PREDICTIONS[t.bn], t.task.way)
    torch.manual_seed(t.config.seed)
    source = open_set.with_unknown(t.source(more), t.task.way)
    return open_set.open_set_metrics(lambda e: t.outcome(measured, e), source, t.evaluation.episodes, unknown)


def _report_fields(t: EvaluationSetup) -> dict[str, Any]:
    """Return what was evaluated, and how; bn is None for a net without batch norm."""
    bn = "target" if t.adapted else t.bn if t.normed else None
    adapted = {"adapted": t.adapted} if t.adapted else {}
    return {
        "run": None if t.folder is None else str(t.folder),
        **episode_sizes(t.task),
        "split": t.config.eval.split,
        "data": t.config.data["_target_"].rpartition(".")[2].lower(),
        "trained_on": None if t.folder is None else t.saved["config"]["data"]["_target_"].rpartition(".")[2].lower(),
        "algo": t.config.algo["name"],
        "bn": bn,
        "transductive": bn == "batch" or transductive.is_transductive(t.test_algorithm),
        **adapted,
        "seed": t.config.seed,
        "train_seed": None if t.folder is None else t.saved["config"]["seed"],
        "step": t.saved["state"]["step"],
        "checkpoint": untrained.backbone_words(t.config) if t.folder is None else str(t.folder / t.checkpoint),
    }


def _extra_metrics(t: EvaluationSetup) -> Metrics:
    """Return what the algorithm's further objective shows; nothing where it names none or the data gives episodes."""
    algo = t.algo
    if t.task.draws is not None or algo.besides is None or t.split.fixed is not None or not t.task.fixed:
        return {}
    other = objective(algo.besides, t.test_algorithm, algo.steps, algo.loss, algo.loss, t.bn)
    source = t.source(extra_metrics_task(t.task, algo, t.split))
    return extra_metrics(lambda episodes: t.outcome(other, episodes), source, t.evaluation.episodes)
