"""The accuracy of a run's best checkpoint on the validation data of another training."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from metalab.algorithms.objectives.build import by_way
from metalab.config.experiment import ExperimentConfig
from metalab.evaluation.measure import measure
from metalab.evaluation.objectives import measured_objective
from metalab.evaluation.setup import build_evaluation_setup


class Measured(NamedTuple):
    """An accuracy, a fraction, and of how many images or episodes it is the mean."""

    accuracy: float
    count: int


def validation_accuracy(folder: Path, own: ExperimentConfig, other: ExperimentConfig) -> Measured:
    """Measure a run's net, by its own algorithm, on the data and the episodes of another run's validation.

    Where that is the run's own, it is the accuracy by which best.pt was chosen. Classes of a classifier all compete:
    nobody tells it which of its trainings an image is from.

    Args:
        folder: of the run, with its best.pt.
        own: its configuration.
        other: that of the other run, whose data, task, seed and number of episodes are taken.

    Raises:
        UserError: where the net cannot be measured on these data, or was trained on them.
    """
    evaluation = replace(
        other.eval, split="val", episodes=other.train.val_episodes, bn=own.eval.bn, eps=None, unknown=None, folds=None
    )
    config = replace(own, data=other.data, task=other.task, eval=evaluation, seed=other.seed, attack={**own.attack})
    t = build_evaluation_setup(folder, config)
    objective = by_way(t.task, t.test_algorithm, lambda algo, way: measured_objective(t.algo, algo, t.bn, way, t.terms))
    torch.manual_seed(config.seed)  # of heads that are drawn for each task
    accuracy, _ = measure(t.outcomes(objective, t.source(t.task), t.protocol.unit), t.evaluation.episodes)
    return Measured(float(accuracy.mean()), t.evaluation.episodes)
