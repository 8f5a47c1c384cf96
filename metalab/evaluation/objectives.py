"""What validation and test measure of every algorithm, clean and under attack."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from metalab.algorithms.build import AlgorithmSettings
from metalab.algorithms.objectives.build import objective
from metalab.algorithms.objectives.prediction import PREDICTIONS
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Batch, Model
from metalab.evaluation.robust_objective import RobustObjective
from metalab.evaluation.robustness import Attacks
from metalab.regularizers import Hooks


def measured_objective(algo: AlgorithmSettings, algorithm: Algorithm, bn: str, way: int, terms: Hooks) -> Any:
    """Return what validation and test measure for every algorithm: the cross-entropy of the queries, unregularized.

    The inner steps descend the same loss as in training, with what `reg` adds to it.
    """

    def inner(model: Model, batch: Batch) -> Tensor:
        return algo.loss(_of_way(model, way), batch)

    def measured(model: Model, batch: Batch) -> Tensor:
        return F.cross_entropy(_of_way(model, way)(batch.x), batch.y)

    return objective("metalab.algorithms.objectives.QueryLoss", algorithm, algo.steps, terms.inner(inner), measured, bn)


def _of_way(model: Model, way: int) -> Model:
    """Return the model, with a UserError where it knows another number of classes."""

    def logits(x: Tensor) -> Tensor:
        made = model(x)
        if made.shape[-1] != way:
            raise UserError(
                f"the head was learned for {made.shape[-1]} classes and the task has {way}; give "
                f"task.way={made.shape[-1]} and task.train_way the same (and no task=all_way), or train an algorithm "
                "that takes any way: protonet, or maml with algo.head_init=zero, random, prototype or knn"
            )
        return made

    return logits


def robust_objective(
    algo: AlgorithmSettings, algorithm: Algorithm, bn: str, attacks: Attacks, terms: Hooks, drop: bool
) -> RobustObjective:
    """Return what is measured under attack; the inner steps are those of the clean measurement."""
    shared, predict = attacks.shared, PREDICTIONS[bn]
    inner = terms.inner(algo.loss)
    return RobustObjective(algorithm, algo.steps, inner, predict, attacks.by_key, shared.on, drop, shared.support)
