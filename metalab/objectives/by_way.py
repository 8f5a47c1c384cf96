"""Objectives for episodes whose way is drawn anew."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from metalab.interfaces import Episode, Learner, Objective, TaskResult


@dataclass(frozen=True)
class ByWay:
    """Run what `make` gives for the way of each episode, which the number of its queries tells.

    The way has to be known without a look into a tensor; every class has `query` queries, so shapes are enough.
    """

    query: int
    make: Callable[[int], Objective]

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        return self.make(episode.query.y.shape[0] // self.query)(learner, episode, progress)
