"""Episodes whose way and shots are drawn anew each time, as Meta-Dataset's (Triantafillou et al. 2020, sec. 3.2)."""

import math
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode, Split
from metalab.data.sampling.augment import NUMBERS, Augment
from metalab.data.sampling.class_families import shares
from metalab.data.sampling.episode_indices import EpisodeIndices
from metalab.data.sampling.gather import ImageGather
from metalab.data.sampling.seeded import generator

LEAST = 5  # classes


@final
@dataclass
class VariableEpisodeSampler:
    """Draw one episode a step from a split; a pure function of (seed, stream, step).

    The way is drawn from 5 up to `way`, or what the split or its family has; the size of the support from beta, and
    the shots of each class in proportion to its images times a random factor of 0.5 to 2, so that classes differ.
    The queries of each class are half of the images of the episode's smallest class, at most `query`. Raises UserError
    where the split has too few classes, or a class of one image.
    """

    split: Split
    way: int  # at most
    shot: int  # what a class counts for, at most, in the size of the support
    query: int  # a class, at most
    support: int  # labelled images in an episode, at most
    seed: int
    stream: str
    device: torch.device
    augment: Augment | None = None
    _gather: ImageGather = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.split, self.way, self.support)
        self._gather = ImageGather(self.split, self.device, self.augment)

    def __call__(self, step: int) -> Episode:
        """Return episode `step`: x float32 [1,N,C,H,W] in [0,1], y int64 [1,N], both on the device."""
        draw = self.indices(step)
        numbers = torch.empty(0)
        if self.augment is not None:
            numbers = torch.rand(1, draw.image.shape[1], NUMBERS, generator=self._generator(f"{step}/augment"))
        x = self._gather(EpisodeIndices(*(t.to(self._gather.home) for t in draw)), numbers)
        queries = draw.classes.shape[1] * self._queries(self.split.count[draw.classes])
        y, edge = draw.label.to(self.device), draw.image.shape[1] - queries
        none = x[:, :0]
        return Episode(Batch(x[:, :edge], y[:, :edge], none), Batch(x[:, edge:], y[:, edge:], none))

    def indices(self, step: int) -> EpisodeIndices:
        """Return the classes, images, labels and turns of episode `step`, with a leading 1, on the CPU."""
        numbers = self._generator(f"{step}")
        classes = self._classes(numbers)
        images = self.split.count[classes]
        query = self._queries(images)
        shots = drawn_shots(images, self.shot, query, self.support, numbers)
        first = self.split.first[classes]
        places = [torch.randperm(count, generator=numbers) for count in images.tolist()]
        sides: list[list[Tensor]] = [[], []]
        for place, start, shot in zip(places, first.tolist(), shots.tolist(), strict=True):
            sides[0].append(start + place[:shot])
            sides[1].append(start + place[shot : shot + query])
        label = [torch.arange(len(classes)).repeat_interleave(n) for n in (shots, torch.full_like(shots, query))]
        order = [torch.randperm(len(each), generator=numbers) for each in label]
        image = torch.cat([torch.cat(side)[o] for side, o in zip(sides, order, strict=True)])
        y = torch.cat([each[o] for each, o in zip(label, order, strict=True)])
        turn = torch.zeros_like(classes) if self.split.turns is None else self.split.turns[classes]
        if self.split.random_turns:
            turn = (turn + torch.randint(4, turn.shape, generator=numbers)) % 4
        return EpisodeIndices(classes[None], image[None], y[None], turn[y][None])

    @property
    def least(self) -> int:
        """The fewest queries a class of an episode."""
        return self._queries(self.split.count)

    def _queries(self, images: Tensor) -> int:
        """Return min(query, min_c floor(n_c / 2)) of classes with so many images (appendix A.2 there)."""
        return min(self.query, int(images.min()) // 2)

    def _classes(self, numbers: torch.Generator) -> Tensor:
        of = torch.arange(len(self.split.ids))
        if self.split.families is not None:
            share = shares(self.split.families, LEAST).cumsum(0)
            drawn = torch.rand(1, generator=numbers, dtype=torch.float64) * share[-1]
            of = of[self.split.families.family == torch.searchsorted(share, drawn, right=True)]
        most = min(self.way, len(of))
        way = int(torch.randint(LEAST, most + 1, (), generator=numbers))
        if self.split.resampling is not None and self.split.resampling.classes is not None:  # as draw_indices
            keys = torch.rand(len(of), generator=numbers, dtype=torch.float64).log() / self.split.resampling.classes[of]
            return of[keys.topk(way).indices]
        return of[torch.randperm(len(of), generator=numbers)[:way]]

    def _generator(self, name: str) -> torch.Generator:
        return generator(self.seed, self.stream, f"variable/{name}")


def drawn_shots(images: Tensor, shot: int, query: int, support: int, numbers: torch.Generator) -> Tensor:
    """Return int64 [way], the shots of each class, given its images [way] (appendix A.2 there).

    |S| = min(support, sum_c ceil(beta min(shot, n_c - query))), beta in (0,1];
    k_c = min(floor(R_c (|S| - way)) + 1, n_c - query), R_c = exp(alpha_c) n_c / sum, alpha_c in [log 0.5, log 2).
    """
    beta = 1 - torch.rand((), generator=numbers, dtype=torch.float64)
    size = min(support, int((beta * (images - query).clamp(max=shot)).ceil().sum()))
    low, high = math.log(0.5), math.log(2)
    alpha = low + (high - low) * torch.rand(len(images), generator=numbers, dtype=torch.float64)
    weight = alpha.exp() * images
    wanted = (weight / weight.sum() * (size - len(images))).floor().long() + 1
    return torch.minimum(wanted, images - query)


def _check(split: Split, way: int, support: int) -> None:
    if split.group is not None:
        raise UserError("task=variable does not know data.group: type task=fixed, or data.group=null")
    if way < LEAST:
        raise UserError(
            f"task.way={way}: task=variable draws {LEAST} classes or more, up to task.way: type task.way=50"
        )
    if support < way:
        raise UserError(f"task.support={support} images are too few for task.way={way} classes: type task.support=500")
    there = len(split.ids) if split.families is None else int(split.families.family.bincount().max())
    if there < LEAST:
        raise UserError(f"task=variable draws {LEAST} classes or more, and there are {there}: add classes")
    smallest = int(split.count.argmin())
    images = int(split.count[smallest])
    if images < 2:
        raise UserError(
            f"class {split.names[smallest]} has one image, and support and query need one each: add images, or leave "
            "the class out"
        )
