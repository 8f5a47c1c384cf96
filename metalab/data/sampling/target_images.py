"""Unlabelled images of a target domain beside what training draws, and the order in which none is left out."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from metalab.core.interfaces import Split
from metalab.data.sampling.augment import NUMBERS, Augment
from metalab.data.sampling.episode_indices import EpisodeIndices
from metalab.data.sampling.gather import ImageGather
from metalab.data.sampling.seeded import generator

ALL = slice(None)  # of a meta-batch's tasks


@final
@dataclass
class EndlessOrder:
    """The endless sequence of `total` items: each comes once before any comes again, in an order drawn each round.

    By weights each round is as many draws with replacement.

    A pure function of (seed, stream, name) and the place in the sequence.
    """

    total: int
    seed: int
    stream: str
    name: str
    weights: Tensor | None = None  # float64 [total], above 0
    _round: tuple[int, Tensor] | None = field(init=False, repr=False, default=None)  # its number and its order

    def __call__(self, first: int, count: int) -> Tensor:
        """Return int64 [count], the items from place `first` on."""
        found: list[Tensor] = []
        while count:
            number, start = divmod(first, self.total)
            found.append(self._order(number)[start : start + count])
            first, count = first + len(found[-1]), count - len(found[-1])
        return torch.cat(found)

    def _order(self, number: int) -> Tensor:
        kept = self._round  # once: another thread may put another round in its place
        if kept is None or kept[0] != number:
            drawn = generator(self.seed, self.stream, f"{self.name}/{number}")
            self._round = kept = number, self._drawn(drawn)
        return kept[1]

    def _drawn(self, drawn: torch.Generator) -> Tensor:
        if self.weights is None:
            return torch.randperm(self.total, generator=drawn)
        upto = self.weights.cumsum(0)
        at = torch.rand(self.total, generator=drawn, dtype=torch.float64) * upto[-1]
        return torch.searchsorted(upto, at, right=True).clamp(max=self.total - 1)


@final
@dataclass
class TargetImages:
    """Draw `images` unlabelled images for each task of a step from a split's target; none where it has none."""

    split: Split
    images: int  # a task
    seed: int
    stream: str
    device: torch.device
    augment: Augment | None = None
    _gather: ImageGather | None = field(init=False, repr=False, default=None)
    _order: EndlessOrder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        target = self.split.target
        self._order = EndlessOrder(0 if target is None else len(target.images), self.seed, self.stream, "target")
        if target is not None:
            upright = replace(self.split, images=target.images, turns=None, random_turns=False)
            self._gather = ImageGather(upright, self.device, self.augment)

    def __call__(self, step: int, tasks: int, part: slice = ALL) -> Tensor:
        """Return float32 [tasks,U,C,H,W] in [0,1] on the device; U = 0 where the split has no target.

        part: which of the tasks; the others' images are not read.
        """
        shape = (tasks, self.images if self._gather else 0)
        if self._gather is None:
            return torch.zeros(len(range(tasks)[part]), 0, *self.split.images.shape[1:], device=self.device)
        count = tasks * self.images
        image = self._order(step * count, count).view(shape).to(self._gather.home)
        drawn = generator(self.seed, self.stream, f"target/{step}/augment")
        numbers = torch.rand((*shape, NUMBERS if self.augment else 0), generator=drawn)
        image = image[part]
        none = torch.zeros_like(image)
        return self._gather(EpisodeIndices(none, image, none, none), numbers[part])
