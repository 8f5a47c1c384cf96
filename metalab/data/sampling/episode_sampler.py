"""The episode sampler: class-indexed uint8 images -> batched episodes on the device."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from metalab.core.interfaces import Batch, Episode, Split
from metalab.data.sampling.across_domains import check_across
from metalab.data.sampling.augment import NUMBERS, Augment
from metalab.data.sampling.episode_indices import EpisodeIndices, draw_indices, fixed_indices
from metalab.data.sampling.episode_size import EpisodeSize, check
from metalab.data.sampling.gather import ImageGather
from metalab.data.sampling.label_noise import swapped_labels
from metalab.data.sampling.seeded import generator
from metalab.data.sampling.target_images import ALL, TargetImages
from metalab.data.sampling.uneven_queries import check_uneven

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
    dirichlet: float | None = None  # concentration of the classes' shares of the queries; None: `query` of each class
    shots: tuple[int, ...] | None = None  # of the classes, in an order that is drawn; None: `shot` of each
    wrong: int = 0  # support images a class whose label is another class's; which images there are does not change
    part: slice = field(default_factory=lambda: ALL)  # which of a step's episodes are made
    _sizes: EpisodeSize = field(init=False, repr=False)
    _gather: ImageGather = field(init=False, repr=False)
    _target: TargetImages = field(init=False, repr=False)
    # its number, the indices beside the images, what the images are augmented by [T,N,7], the support's labels [T,S]
    _block: tuple[int, EpisodeIndices, Tensor, Tensor] | None = field(init=False, repr=False, default=None)
    _size: int = field(init=False, repr=False)  # episodes a block

    def __post_init__(self) -> None:
        beside = (self.unlabelled, self.distractors)
        self._sizes = EpisodeSize(self.way, max(self.shots or (self.shot,)), self.query, *beside, self.shots)
        check(self.split, self._sizes, self.stream)
        if self.dirichlet is not None:
            check_uneven(self.split, self._sizes)
        per_episode = len(self.split.ids) + (self.way + self.distractors) * int(self.split.count.max())
        per_episode *= 1 if self.split.group is None else 4
        self._size = min(BLOCK_EPISODES, max(1, BLOCK_NUMBERS // per_episode))
        if self.split.fixed is not None:  # every block is all of them
            self._size = len(self.split.fixed.classes)
        self._gather = ImageGather(self.split, self.device, self.augment)
        queries = self.way * self.query
        self._target = TargetImages(self.split, queries, self.seed, self.stream, self.device, self.augment)
        if self.split.query_images is not None:
            check_across(self.split, self.split.query_images, self._sizes, self.dirichlet is not None)
        if self.split.group is not None:
            self._drawn(0)  # a grouping that allows no episode fails here, before any work

    def __call__(self, step: int) -> Episode:
        """Return meta-batch `step`: x float32 [T,N,C,H,W] in [0,1], y int64 [T,N], both on the device.

        Beside the queries stand as many unlabelled images of the split's target, where it has one.
        """
        draw, numbers, known = self._draws(step)
        x = self._gather(draw, numbers)
        support, query, unlabelled = x.split(self._sizes.edges, 1)
        y = draw.label.to(self.device).split(self._sizes.edges, 1)
        given = known.to(self.device) if self.wrong else y[0]
        return Episode(Batch(support, given, unlabelled), Batch(query, y[1], self._target(step, self.tasks, self.part)))

    def indices(self, step: int) -> EpisodeIndices:
        """Return the classes, images, true labels and turns of meta-batch `step`, on the CPU."""
        return EpisodeIndices(*(t.cpu() for t in self._draws(step)[0]))

    def _draws(self, step: int) -> tuple[EpisodeIndices, Tensor, Tensor]:
        made = range(step * self.tasks, (step + 1) * self.tasks)[self.part]
        first, last = made.start, made.stop
        parts = []
        for number in range(first // self._size, (last - 1) // self._size + 1):
            start = number * self._size
            rows = slice(max(first - start, 0), last - start)
            _, draw, numbers, known = self._drawn(number)
            parts.append([t[rows] for t in (*draw, numbers, known)])
        *draw, numbers, known = (torch.cat(t) for t in zip(*parts, strict=True))
        return EpisodeIndices(*draw), numbers, known

    def _drawn(self, number: int) -> tuple[int, EpisodeIndices, Tensor, Tensor]:
        block = self._block  # once: another thread may be at another block
        if block is None or block[0] != number:
            where = self._gather.home
            if self.split.fixed is not None:
                draw = fixed_indices(self.split, self.split.fixed)
            else:
                drawn = generator(self.seed, self.stream, f"{number}")
                draw = draw_indices(self.split, self._sizes, self._size, drawn, self.dirichlet)
            shape = (*draw.image.shape, NUMBERS) if self.augment is not None else (self._size, 0)
            numbers = torch.rand(shape, generator=generator(self.seed, self.stream, f"{number}/augment"))
            known = self._known(draw.label[:, : self._sizes.support], number)
            block = number, EpisodeIndices(*(t.to(where) for t in draw)), numbers.to(where), known.to(where)
            self._block = block
        return block

    def _known(self, label: Tensor, number: int) -> Tensor:
        """Return the labels that a block's supports are given, of the true ones [T,S]."""
        if not self.wrong:
            return label
        drawn = generator(self.seed, self.stream, f"{number}/label_noise")
        return swapped_labels(
            label, self.way, self.wrong, lambda *shape: torch.rand(*shape, generator=drawn, dtype=torch.float64)
        )
