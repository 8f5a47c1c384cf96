"""The corrupted part of an evaluation: accuracy under each corruption of eval.corrupt, on the clean one's episodes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalab.algorithms.objectives.build import by_way
from metalab.config.schema import Eval
from metalab.config.validate import format_value
from metalab.core.errors import UserError
from metalab.core.statistics import mean_ci95
from metalab.data.corruptions.build import kinds
from metalab.data.sampling.build import Source
from metalab.data.sampling.episode_size import EVALUATED
from metalab.evaluation.corruptions.source import CorruptedSource
from metalab.evaluation.measure import measure
from metalab.evaluation.objectives import measured_objective
from metalab.evaluation.setup import EvaluationSetup
from metalab.tracking.class_report import ClassReport

NOTE = "eval.corrupt: the ice of frost is drawn, where the authors have photographs"


@dataclass(frozen=True)
class Corrupted:
    """What was measured under corruptions."""

    record: dict[str, Any]  # of eval.json
    examples: Mapping[str, Sequence[Tensor]]  # one image [C,H,W] by kind, clean and at each severity
    severities: Sequence[int]  # of the images

    def with_sheet(self, report: ClassReport | None) -> ClassReport | None:
        """Return a run's report with corrupted.png among its pictures."""

        def draw() -> np.ndarray:
            from metalab.tracking.corruptions.figures import sheet

            images = {kind: [x.numpy() for x in row] for kind, row in self.examples.items()}
            return sheet(images, ["clean", *(f"severity {s}" for s in self.severities)])

        return None if report is None else replace(report, pictures={**report.pictures, "corrupted": draw})


def measure_corruptions(t: EvaluationSetup, source: Source, clean: np.ndarray) -> Corrupted:
    """Measure accuracy under each kind and severity that eval.corrupt asks for.

    Args:
        t: the evaluation.
        source: its episodes.
        clean: accuracy on each of them, a fraction.

    Returns:
        The record, whose `kinds` have accuracy and ci95 for each severity and for their mean, and whose `mean` is over
        all kinds and severities; relative_drop is by how much of the clean accuracy that lies below it.
    """
    objective = by_way(t.task, t.test_algorithm, lambda algo, way: measured_objective(t.algo, algo, t.bn, way, t.terms))
    names, severities, episodes = kinds(t.evaluation), sorted(set(t.evaluation.severities)), t.evaluation.episodes
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    on, stream = t.evaluation.corrupt_on, EVALUATED[t.evaluation.split]
    first = source(0)
    examples = {name: [(first.support if on == "support" else first.query).x[0, 0].cpu()] for name in names}
    for name in names:
        for severity in severities:
            changed = CorruptedSource(source, name, severity, on, t.config.seed, stream)
            torch.manual_seed(t.config.seed)  # of heads that are drawn for each task, as in the clean measurement
            found[name].append(measure(t.outcomes(objective, changed, f"{name} {severity}"), episodes)[0])
            examples[name].append(changed.example if changed.example is not None else examples[name][0])
    shown = {name: _of_severities(severities, values) for name, values in found.items()}
    mean = _accuracy(np.mean(list(found.values()), (0, 1)))
    drop = 1 - mean["accuracy"] / clean.mean() if clean.mean() > 0 else math.nan
    return Corrupted({"on": on, "kinds": shown, "mean": mean, "relative_drop": float(drop)}, examples, severities)


def _of_severities(severities: Sequence[int], accuracies: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    each = {str(severity): _accuracy(values) for severity, values in zip(severities, accuracies, strict=True)}
    return each | {"mean": _accuracy(np.mean(accuracies, 0))}


def _accuracy(values: np.ndarray) -> dict[str, float]:
    """Return the mean and its 95 % interval over episodes of accuracies [episodes]."""
    accuracy, ci95 = mean_ci95(values)
    return {"accuracy": accuracy, "ci95": ci95}


def corruption_notes(evaluation: Eval) -> set[str]:
    """Return what is noted on the accuracy under corruptions, nothing where none is asked for."""
    return {NOTE} if "frost" in kinds(evaluation) else set()


def refuse_comparison(evaluation: Eval) -> None:
    """Raise UserError for metalab compare, whose report has the clean accuracy alone."""
    if evaluation.corrupt is not None:
        raise UserError(
            f"metalab compare shows no corruptions: leave out eval.corrupt={format_value(evaluation.corrupt)}, or type "
            "metalab eval run=[A,B] eval.corrupt=..."
        )


def measurements(evaluation: Eval) -> int:
    """Return how often the episodes are measured once more, corrupted."""
    return len(kinds(evaluation)) * len(set(evaluation.severities))
