"""From the dotted path of a training objective to the objective, for the way of the task."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from metalab.algorithms.objectives.prediction import PREDICTIONS
from metalab.algorithms.objectives.variable_way import PerWayObjective
from metalab.config.instantiate import locate
from metalab.config.schema import Task
from metalab.core.interfaces import Algorithm, Loss, Objective


@runtime_checkable
class LossAlgorithm(Protocol):
    """An algorithm that changes the loss of training, as by a margin; that of the test stays."""

    def training_loss(self, loss: Loss) -> Loss:
        """Return the loss of the images that are trained on, from the one that algo.episode_loss names."""
        ...


def training_loss(loss: Loss, algorithm: Algorithm) -> Loss:
    """Return the loss of the images that are trained on, before regularizers change it."""
    return algorithm.training_loss(loss) if isinstance(algorithm, LossAlgorithm) else loss


def objective(path: str, algorithm: Algorithm, steps: int, inner: Loss, outer: Loss, bn: str) -> Any:
    """Build a training objective.

    Args:
        path: its dotted path, algo.objective.
        algorithm: what adapts.
        steps: inner steps.
        inner: the loss of the support, which inner steps descend.
        outer: the loss of the queries.
        bn: the batch-norm mode of predictions, a key of PREDICTIONS.

    Raises:
        UserError: where there is no such objective, or it does not fit the algorithm.
    """
    return locate(path, "algo.objective")(algorithm, steps, inner, outer, PREDICTIONS[bn])


def by_way(task: Task, algorithm: Algorithm, make: Callable[[Algorithm, int], Objective]) -> Objective:
    """Return make(algorithm, way) for the task's way, or, where each episode has its own, what makes it for that."""
    if task.fixed:
        return make(algorithm, task.way)
    return PerWayObjective(lambda way: make(at_way(algorithm, way), way))


def at_way(algorithm: Algorithm, way: int) -> Algorithm:
    """Return the algorithm for another number of classes."""
    own: Any = algorithm  # a dataclass with a field `way`, as config.build has seen to
    return replace(own, way=way)
