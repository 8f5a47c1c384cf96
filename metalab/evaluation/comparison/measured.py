"""One run, measured for a comparison: as metalab eval does, with its predictions and what identifies its episodes."""

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metalab.algorithms.objectives.build import by_way
from metalab.algorithms.objectives.prediction import PREDICTIONS
from metalab.config.experiment import ExperimentConfig
from metalab.config.schema import Task
from metalab.core.interfaces import Split
from metalab.core.optional_output import optional_output
from metalab.core.statistics import mean_ci95
from metalab.data.sampling.build import Source, episode_source
from metalab.data.sampling.episode_size import EVALUATED
from metalab.evaluation import evaluate
from metalab.evaluation.adaptation_curve import AdaptationCurve
from metalab.evaluation.all_way import protocol as all_way
from metalab.evaluation.class_reporting import ClassReporting
from metalab.evaluation.corruptions import measured as corruptions
from metalab.evaluation.setup import EvaluationSetup, build_evaluation_setup

ADAPTED = 100  # episodes that the accuracy after each inner step is measured on, at most
logger = logging.getLogger("metalab")


@dataclass(frozen=True)
class Measured:
    """What a comparison needs of one run on one data set."""

    record: dict[str, Any]
    accuracy: np.ndarray  # float64 [E]
    classes: dict[str, Any] | None  # columns of per_class.csv
    adaptation: list[tuple[float, float]]
    predictions: list[torch.Tensor]  # int64 [T,N] of each meta-batch, labels within the episode; empty: not kept
    names: list[str]  # of the split's classes
    source: Callable[[], Source]  # makes the episodes again, with images
    episodes: dict[str, Any]  # facts by which its episodes are those of another run, in words
    conditions: dict[str, Any]  # facts under which the same episodes are harder or easier


def measure_run(folder: Path, config: ExperimentConfig) -> Measured:
    """Evaluate one run's best checkpoint, and keep what a comparison shows.

    Raises:
        UserError: as metalab eval does.
    """
    all_way.refuse_comparison(config.task)
    corruptions.refuse_comparison(config.eval)
    t = build_evaluation_setup(folder, evaluate.without_folds(config))
    reporting = ClassReporting(t)
    record, accuracy, classes = evaluate.evaluate_setup(t, reporting, pictures=False)
    curve: list[tuple[float, float]] = []
    with optional_output("the adaptation curve"):
        curve = _adaptation(t)
    task, images = t.task, t.images
    seed, tasks, stream = config.seed, t.tasks, t.evaluation.split
    return Measured(
        dict(zip(("accuracy", "ci95", "episodes"), (*mean_ci95(accuracy), len(accuracy)), strict=True)) | record,
        accuracy,
        None if classes is None else dict(classes.columns),
        curve,
        [part.cpu() for part in reporting.kept.parts] if t.protocol.has_support else [],
        list(images.names),
        lambda: _source(task, images, tasks, seed, stream),
        _episodes(t, len(accuracy)),
        {
            "transductive": record["transductive"],
            "trained on test classes": bool(t.overlap),
            "image size": "x".join(map(str, t.saved["shape"][1:])),
            "batch norm": record["bn"],
        },
    )


def _source(task: Task, images: Split, tasks: int, seed: int, split: str) -> Source:
    """Return the episodes of an evaluation with images, on the processor."""
    return episode_source(task, images, tasks, seed, EVALUATED[split], torch.device("cpu"))


def _episodes(t: EvaluationSetup, count: int) -> dict[str, Any]:
    """Return what was asked of whom: runs with the same facts were measured on the same episodes."""
    source = t.image_source(t.task)
    return {
        "data": t.config.data["_target_"].rpartition(".")[2].lower(),
        "classes": len(t.images.ids),
        "split": t.evaluation.split,
        **t.protocol.sizes(t.task),
        t.protocol.unit: count,
        "seed": t.config.seed,
        "images of the episodes": _digest(t, source, count),
    }


def _digest(t: EvaluationSetup, source: Source, count: int) -> str:
    """Return a hash of the classes and images of every episode, in their order."""
    split, seen, steps = t.images, 0, -(-count // (1 if not t.task.fixed else t.tasks))
    found = hashlib.sha256(repr((split.ids, split.count.tolist(), split.files)).encode())
    for step in range(steps):
        drawn = [each.to(torch.int64).cpu().numpy() for each in source.indices(step)]
        for row in range(len(drawn[1])):  # one after another, for runs may differ in eval.batch
            if seen < count:
                found.update(b"".join(each[row].tobytes() for each in drawn))
            seen += 1
    return found.hexdigest()[:12]


def _adaptation(t: EvaluationSetup) -> list[tuple[float, float]]:
    """Return the mean and the half-width of its interval after 0, 1, ... inner steps; nothing without any."""
    if not t.protocol.has_support or t.algo.steps == 0:
        return []
    inner, predict = t.terms.inner(t.algo.loss), PREDICTIONS[t.bn]
    curve = by_way(t.task, t.test_algorithm, lambda algo, way: AdaptationCurve(algo, t.algo.steps, inner, predict))
    torch.manual_seed(t.config.seed)
    episodes = min(ADAPTED, t.evaluation.episodes)
    source, found, seen = t.source(t.task), [], 0
    while seen < episodes:
        scalars = t.outcome(curve, source(len(found))).scalars
        found.append(torch.stack([scalars[name] for name in _steps(scalars)]).double().cpu())  # [S+1,T]
        seen += found[-1].shape[1]
    return [mean_ci95(step) for step in torch.cat(found, 1)[:, :episodes].numpy()]


def _steps(scalars: Iterable[str]) -> list[str]:
    """Return the names of what AdaptationCurve shows of each inner step, in their order."""
    count = sum(name.startswith("accuracy/") for name in scalars)
    return [f"accuracy/{step}" for step in range(count)]
