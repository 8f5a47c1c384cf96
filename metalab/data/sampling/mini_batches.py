"""Ordinary mini-batches of all classes of a split, in the shape of episodes: for what trains a plain classifier."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from metalab.core.interfaces import Batch, Episode, Split
from metalab.data.sampling.augment import NUMBERS, Augment
from metalab.data.sampling.episode_indices import EpisodeIndices
from metalab.data.sampling.episode_sampler import generator
from metalab.data.sampling.gather import ImageGather


@final
@dataclass
class MiniBatches:
    """Draw `tasks` mini-batches a step, each an episode whose support is empty and whose query is the mini-batch.

    Labels are the split's classes, 0..K-1. Every image of every class comes once before any comes again, in an order
    drawn anew each time; a pure function of (seed, stream, step), so that resuming needs no state.
    """

    split: Split
    images: int  # a mini-batch
    tasks: int
    seed: int
    stream: str
    device: torch.device
    augment: Augment | None = None
    _ends: Tensor = field(init=False, repr=False)  # int64 [K], how many images this class and those before it have
    _gather: ImageGather = field(init=False, repr=False)
    _round: tuple[int, Tensor] | None = field(init=False, repr=False, default=None)  # its number and its order

    def __post_init__(self) -> None:
        self._ends = self.split.count.cumsum(0)
        self._gather = ImageGather(self.split, self.device, self.augment)

    def __call__(self, step: int) -> Episode:
        """Return meta-batch `step`: query x float32 [T,N,C,H,W] in [0,1], y int64 [T,N], both on the device."""
        draw = self.indices(step)
        drawn = generator(self.seed, self.stream, f"batches/{step}/augment")
        numbers = torch.rand((*draw.image.shape, NUMBERS if self.augment else 0), generator=drawn)
        x = self._gather(EpisodeIndices(*(t.to(self._gather.home) for t in draw)), numbers)
        y, none = draw.label.to(self.device), x[:, :0]
        return Episode(Batch(none, y[:, :0], none), Batch(x, y, none))

    def indices(self, step: int) -> EpisodeIndices:
        """Return the images, labels and turns of meta-batch `step`, on the CPU."""
        first, count = step * self.tasks * self.images, self.tasks * self.images
        item = self._items(first, count)
        label = torch.searchsorted(self._ends, item, right=True)
        image = self.split.first[label] + item - (self._ends - self.split.count)[label]
        turn = torch.zeros_like(label) if self.split.turns is None else self.split.turns[label]
        if self.split.random_turns:
            drawn = generator(self.seed, self.stream, f"batches/{step}/turns")
            turn = (turn + torch.randint(4, turn.shape, generator=drawn)) % 4
        shape = (self.tasks, self.images)
        classes = torch.arange(len(self.split.ids)).expand(self.tasks, -1)
        return EpisodeIndices(classes, image.view(shape), label.view(shape), turn.view(shape))

    def _items(self, first: int, count: int) -> Tensor:
        """Return int64 [count], the items from place `first` on of the endless sequence of rounds."""
        total, found = int(self._ends[-1]), []
        while count:
            number, start = divmod(first, total)
            found.append(self._order(number, total)[start : start + count])
            first, count = first + len(found[-1]), count - len(found[-1])
        return torch.cat(found)

    def _order(self, number: int, total: int) -> Tensor:
        kept = self._round  # once: another thread may put another round in its place
        if kept is None or kept[0] != number:
            drawn = generator(self.seed, self.stream, f"batches/{number}")
            self._round = kept = number, torch.randperm(total, generator=drawn)
        return kept[1]
