"""Remembered images among the current ones: a share of each mini-batch, or of the episodes."""

from dataclasses import dataclass, field
from functools import partial
from typing import final

import torch

from metalab.core.interfaces import Batch, Episode, EpisodeSource
from metalab.data.sampling.target_images import ALL


@final
@dataclass
class ReplayedBatches:
    """Join each mini-batch of a source with one of another source's, the current images first."""

    current: EpisodeSource
    memory: EpisodeSource

    def __call__(self, step: int) -> Episode:
        """Return meta-batch `step`, of both sources' images."""
        (support, query), (_, remembered) = self.current(step), self.memory(step)
        return Episode(support, _joined(query, remembered, 1))


@final
@dataclass
class ReplayedEpisodes:
    """Give meta-batches of `tasks` episodes, of which a share is of the memory: of episode n every 1 / share-th.

    A pure function of the step, as its two sources are, which give one episode a step.
    """

    current: EpisodeSource
    memory: EpisodeSource
    tasks: int
    share: float
    part: slice = field(default_factory=lambda: ALL)  # which of a step's episodes are made

    def __call__(self, step: int) -> Episode:
        """Return meta-batch `step`, the episodes of the memory behind the others."""
        first, last = step * self.tasks, (step + 1) * self.tasks
        before, after = self._remembered(first), self._remembered(last)
        makes = [partial(self.current, n) for n in range(first - before, last - after)]
        makes += [partial(self.memory, n) for n in range(before, after)]
        episode, *rest = (make() for make in makes[self.part])
        for more in rest:
            episode = Episode(*(_joined(a, b, 0) for a, b in zip(episode, more, strict=True)))
        return episode

    def _remembered(self, episodes: int) -> int:
        """Return how many of the first episodes are of the memory."""
        return int(episodes * self.share + 1e-9)  # which a share like 0.1 may fall short of


def remembered_images(mini_batch: int, share: float) -> int:
    """Return how many images of a mini-batch are of the memory: one or more, and not all."""
    return min(max(1, round(mini_batch * share)), mini_batch - 1)


def _joined(one: Batch, other: Batch, dim: int) -> Batch:
    return Batch(*(torch.cat(pair, dim) for pair in zip(one, other, strict=True)))
