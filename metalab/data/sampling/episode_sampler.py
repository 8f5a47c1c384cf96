"""The episode sampler: class-indexed uint8 images -> batched episodes on the device."""

import hashlib
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from metalab.core.interfaces import Batch, Episode, Split
from metalab.data.sampling.augment import NUMBERS, Augment
from metalab.data.sampling.episode_indices import EpisodeIndices, draw_indices, fixed_indices
from metalab.data.sampling.episode_size import EpisodeSize, check
from metalab.data.sampling.gather import ImageGather

BLOCK_EPISODES = 256  # episodes whose indices are drawn at once: long enough that drawing costs nothing a step
BLOCK_NUMBERS = 2**20  # random numbers a block may take (8 MiB): shortens the block where classes are many or large


@final
@dataclass
class EpisodeSampler:
    """Draw meta-batches of `tasks` episodes from a split; a pure function of (seed, stream, step).

    Episode number `step * tasks + t` does not depend on `tasks` or on the device, so an evaluation in batches of 4
    or of 8 sees the same episodes, and resuming needs no state. Each class of an episode is another class of the
    split; labels are the order of drawing; support, query and unlabelled images are different ones. Augmenting
    changes no episode's choice of images. Raises UserError when the split has too few classes, a class with too few
    images, or turned images that are not square.
    """

    split: Split
    way: int
    shot: int
    query: int
    tasks: int
    seed: int
    stream: str  # each has random numbers of its own; sizes.EVALUATED has those of evaluations, others are training's
    device: torch.device
    unlabelled: int = 0  # images a class, of the support
    distractors: int = 0  # classes that have unlabelled images only
    augment: Augment | None = None  # for training; each image of an episode has a draw of its own
    _sizes: EpisodeSize = field(init=False, repr=False)
    _gather: ImageGather = field(init=False, repr=False)
    # its number, the indices beside the images, and what the images are augmented by [T,N,7]
    _block: tuple[int, EpisodeIndices, Tensor] | None = field(init=False, repr=False, default=None)
    _size: int = field(init=False, repr=False)  # episodes a block

    def __post_init__(self) -> None:
        self._sizes = EpisodeSize(self.way, self.shot, self.query, self.unlabelled, self.distractors)
        check(self.split, self._sizes, self.stream)
        per_episode = len(self.split.ids) + (self.way + self.distractors) * int(self.split.count.max())
        per_episode *= 1 if self.split.group is None else 4
        self._size = min(BLOCK_EPISODES, max(1, BLOCK_NUMBERS // per_episode))
        if self.split.fixed is not None:  # every block is all of them
            self._size = len(self.split.fixed.classes)
        self._gather = ImageGather(self.split, self.device, self.augment)
        if self.split.group is not None:
            self._drawn(0)  # a grouping that allows no episode fails here, before any work

    def __call__(self, step: int) -> Episode:
        """Return meta-batch `step`: x float32 [T,N,C,H,W] in [0,1], y int64 [T,N], both on the device."""
        draw, numbers = self._draws(step)
        x = self._gather(draw, numbers)
        support, query, unlabelled = x.split(self._sizes.edges, 1)
        y = draw.label.to(self.device).split(self._sizes.edges, 1)
        return Episode(Batch(support, y[0], unlabelled), Batch(query, y[1], x[:, :0]))

    def indices(self, step: int) -> EpisodeIndices:
        """Return the classes, images, labels and turns of meta-batch `step`, on the CPU."""
        return EpisodeIndices(*(t.cpu() for t in self._draws(step)[0]))

    def _draws(self, step: int) -> tuple[EpisodeIndices, Tensor]:
        first, last = step * self.tasks, (step + 1) * self.tasks
        parts = []
        for number in range(first // self._size, (last - 1) // self._size + 1):
            start = number * self._size
            rows = slice(max(first - start, 0), last - start)
            _, draw, numbers = self._drawn(number)
            parts.append([t[rows] for t in (*draw, numbers)])
        *draw, numbers = (torch.cat(t) for t in zip(*parts, strict=True))
        return EpisodeIndices(*draw), numbers

    def _drawn(self, number: int) -> tuple[int, EpisodeIndices, Tensor]:
        block = self._block  # once: another thread may be at another block
        if block is None or block[0] != number:
            where = self._gather.home
            if self.split.fixed is not None:
                draw = fixed_indices(self.split, self.split.fixed)
            else:
                draw = draw_indices(self.split, self._sizes, self._size, generator(self.seed, self.stream, f"{number}"))
            shape = (*draw.image.shape, NUMBERS) if self.augment is not None else (self._size, 0)
            numbers = torch.rand(shape, generator=generator(self.seed, self.stream, f"{number}/augment"))
            block = number, EpisodeIndices(*(t.to(where) for t in draw)), numbers.to(where)
            self._block = block
        return block


def generator(seed: int, stream: str, name: str) -> torch.Generator:
    """Return the random numbers of this name: of other streams and names they are others."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
