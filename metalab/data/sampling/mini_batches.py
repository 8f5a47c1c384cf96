"""Ordinary mini-batches of all classes of a split, in the shape of episodes: for what trains a plain classifier."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from metalab.core.interfaces import Batch, Episode, Split
from metalab.data.sampling.augment import NUMBERS, Augment
from metalab.data.sampling.episode_indices import EpisodeIndices
from metalab.data.sampling.gather import ImageGather
from metalab.data.sampling.seeded import generator
from metalab.data.sampling.target_images import ALL, EndlessOrder, TargetImages


@final
@dataclass
class MiniBatches:
    """Draw `tasks` mini-batches a step, each an episode whose support is empty and whose query is the mini-batch.

    Labels are the split's classes, 0..K-1. Every image of every class comes once before any comes again, in an order
    drawn anew each time; a pure function of (seed, stream, step), so that resuming needs no state. What the split's
    resampling says of items and weights holds in the place of that.
    """

    split: Split
    images: int  # a mini-batch
    tasks: int
    seed: int
    stream: str
    device: torch.device
    augment: Augment | None = None
    part: slice = field(
        default_factory=lambda: ALL
    )  # which of a step's mini-batches are made; what is drawn does not hang on it
    _ends: Tensor = field(init=False, repr=False)  # int64 [K], how many images this class and those before it have
    _gather: ImageGather = field(init=False, repr=False)
    _order: EndlessOrder = field(init=False, repr=False)
    _own: Tensor | None = field(init=False, repr=False)  # int64 [n], the item at each place of the order; None: itself
    _target: TargetImages = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ends = self.split.count.cumsum(0)
        self._gather = ImageGather(self.split, self.device, self.augment)
        items, weights = self._resampled()
        total = int(self._ends[-1]) if items is None else len(items)
        self._order, self._own = EndlessOrder(total, self.seed, self.stream, "batches", weights), items
        self._target = TargetImages(self.split, self.images, self.seed, self.stream, self.device, self.augment)

    def __call__(self, step: int) -> Episode:
        """Return meta-batch `step`: query x float32 [T,N,C,H,W] in [0,1], y int64 [T,N], both on the device.

        Beside them stand as many unlabelled images of the split's target, where it has one.
        """
        draw = self.indices(step)
        drawn = generator(self.seed, self.stream, f"batches/{step}/augment")
        numbers = torch.rand((*draw.image.shape, NUMBERS if self.augment else 0), generator=drawn)[self.part]
        draw = EpisodeIndices(*(t[self.part] for t in draw))
        x = self._gather(EpisodeIndices(*(t.to(self._gather.home) for t in draw)), numbers)
        y, none = draw.label.to(self.device), x[:, :0]
        return Episode(Batch(none, y[:, :0], none), Batch(x, y, self._target(step, self.tasks, self.part)))

    def indices(self, step: int) -> EpisodeIndices:
        """Return the images, labels and turns of meta-batch `step`, on the CPU."""
        first, count = step * self.tasks * self.images, self.tasks * self.images
        place = self._order(first, count)
        item = place if self._own is None else self._own[place]
        label = torch.searchsorted(self._ends, item, right=True)
        image = self.split.first[label] + item - (self._ends - self.split.count)[label]
        turn = torch.zeros_like(label) if self.split.turns is None else self.split.turns[label]
        if self.split.random_turns:
            drawn = generator(self.seed, self.stream, f"batches/{step}/turns")
            turn = (turn + torch.randint(4, turn.shape, generator=drawn)) % 4
        shape = (self.tasks, self.images)
        classes = torch.arange(len(self.split.ids)).expand(self.tasks, -1)
        return EpisodeIndices(classes, image.view(shape), label.view(shape), turn.view(shape))

    def _resampled(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the items that are gone through and how often each is drawn; None: all, and alike."""
        if self.split.resampling is None:
            return None, None
        classes, items, weights = self.split.resampling
        if classes is not None:
            of_class = classes.repeat_interleave(self.split.count)
            of_class = of_class if items is None else of_class[items]
            weights = of_class if weights is None else weights * of_class
        return items, weights
