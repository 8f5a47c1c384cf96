"""Objectives for episodes whose way is drawn anew."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from metalab.core.interfaces import Episode, Learner, Objective, TaskResult


@dataclass(frozen=True)
class PerWayObjective:
    """Run what `make` gives for the way of each episode.

    Neither shots nor queries are the same in all episodes, so that shapes do not tell the way and labels have to be
    looked at: which vmap does not allow, and an engine that uses it asks for `of` before.
    """

    make: Callable[[int], Objective]

    def of(self, episodes: Episode) -> Objective:
        """Return the objective for the way of an episode, or of a meta-batch of one way, whose labels have a T."""
        return self.make(int(episodes.support.y.max()) + 1)

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        return self.of(episode)(learner, episode, progress)
