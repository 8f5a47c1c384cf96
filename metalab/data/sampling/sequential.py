"""Every image of a split once, in the shape of episodes: for the test of a plain classifier."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from metalab.core.interfaces import Batch, Episode, Split
from metalab.data.sampling.episode_indices import EpisodeIndices
from metalab.data.sampling.gather import ImageGather


@final
@dataclass
class SequentialImages:
    """Give mini-batches of at most `images`, each an episode whose support is empty and whose query is the mini-batch.

    Labels are the split's classes, 0..K-1. Steps 0..S-1 have each image of each class once; step s has every S-th
    from s on, so that its classes are mixed. Nothing is drawn.
    """

    split: Split
    images: int  # a mini-batch
    device: torch.device
    _ends: Tensor = field(init=False, repr=False)  # int64 [K], how many images this class and those before it have
    _gather: ImageGather = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ends = self.split.count.cumsum(0)
        self._gather = ImageGather(self.split, self.device, None)

    def __call__(self, step: int) -> Episode:
        """Return mini-batch `step`: query x float32 [1,N,C,H,W] in [0,1], y int64 [1,N], both on the device."""
        draw = self.indices(step)
        x = self._gather(EpisodeIndices(*(t.to(self._gather.home) for t in draw)), torch.empty(0))
        y, none = draw.label.to(self.device), x[:, :0]
        return Episode(Batch(none, y[:, :0], none), Batch(x, y, none))

    @property
    def steps(self) -> int:
        """How many mini-batches have every image."""
        return -(-int(self._ends[-1]) // self.images)

    def indices(self, step: int) -> EpisodeIndices:
        """Return the images and labels of mini-batch `step`, with a leading 1, on the CPU."""
        total = int(self._ends[-1])
        item = torch.arange(step, total, self.steps)
        label = torch.searchsorted(self._ends, item, right=True)
        image = self.split.first[label] + item - (self._ends - self.split.count)[label]
        turn = torch.zeros_like(label) if self.split.turns is None else self.split.turns[label]
        return EpisodeIndices(torch.arange(len(self.split.ids))[None], image[None], label[None], turn[None])
