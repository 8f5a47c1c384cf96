"""All classes of a split at once, k labelled images of each: the few-shot protocol of CoOp and Tip-Adapter."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode, Split
from metalab.data.sampling.episode_indices import EpisodeIndices
from metalab.data.sampling.gather import ImageGather
from metalab.data.sampling.seeded import generator


@final
@dataclass
class AllWayEpisodes:
    """Draw one support a step: `shot` images of each class of the split; all other images are its queries.

    Zhou, Yang, Loy, Liu 2022 (CoOp, sec. 4.1); Zhang et al. 2022 (Tip-Adapter, sec. 4.1), where the support is of the
    training images and the queries are the test images: so it is where the split has a `support`, of which a class
    gives what it has where that is less than `shot`. Where it has folds, step k asks the images of fold k, and all
    others are its support. A pure function of (seed, stream, step); with the same seed the supports of fewer shots are
    among those of more. Raises UserError where a class has no image left for a query, or for a support.
    """

    split: Split
    shot: int
    seed: int
    stream: str
    device: torch.device
    _gather: ImageGather = field(init=False, repr=False)
    _known: ImageGather = field(init=False, repr=False)  # of supports

    def __post_init__(self) -> None:
        self._gather = self._known = ImageGather(self.split, self.device, None)
        if self.split.support is not None:
            self._known = ImageGather(self.split.support, self.device, None)
        elif self.split.fold is None:
            self._refuse_small()

    def _refuse_small(self) -> None:
        smallest = int(self.split.count.argmin())
        images = int(self.split.count[smallest])
        if images <= self.shot:
            advice = f"type task.shot={images - 1} or less, " if images > 1 else ""
            raise UserError(
                f"task=all_way task.shot={self.shot}: class {self.split.names[smallest]} has {images} image"
                f"{'s' * (images != 1)}, and one more is needed as a query: {advice}add images, or leave the class out"
            )

    @property
    def queries(self) -> int:
        """How many images are queries of a draw; of folds those of all draws together."""
        known = 0 if self.split.fold is not None or self.split.support is not None else self.shot
        return int(self.split.count.sum()) - len(self.split.ids) * known

    def __call__(self, step: int) -> Episode:
        """Return draw `step` with a leading 1, on the device; its queries are images that are not read yet.

        The support's x is float32 [1,S,C,H,W] in [0,1], the query's int64 [1,Q,2], for `images`.
        """
        known, asked = (_placed(part, self.device) for part in self._parts(step))
        x = _images(self._known, known.x[0])[None]
        return Episode(Batch(x, known.y, x[:, :0]), Batch(asked.x, asked.y, asked.x[:, :0]))

    def images(self, places: Tensor) -> Tensor:
        """Return float32 [N,C,H,W] in [0,1] on the device, the queries of places [N,2]: each image and its turn."""
        return _images(self._gather, places)

    def indices(self, step: int) -> EpisodeIndices:
        """Return the classes, images, labels and turns of draw `step`, support first, with a leading 1, on the CPU.

        Images of a support are those of `split.support`, where there is one.
        """
        known, asked = self._parts(step)
        return EpisodeIndices(known.classes, *(torch.cat(pair, 1) for pair in zip(known[1:], asked[1:], strict=True)))

    def _parts(self, step: int) -> tuple[EpisodeIndices, EpisodeIndices]:
        """Return the support of draw `step`, and its queries."""
        numbers = generator(self.seed, self.stream, f"all_way/{step}")
        split, other = self.split, self.split.support
        pool = split if other is None else other
        label, place, order = _shuffled(pool, numbers)
        if split.fold is not None:
            fold = torch.cat([split.fold[i : i + n] for i, n in zip(split.first, split.count, strict=True)])
            known, asked = order[fold[order] != step], order[fold[order] == step]
        else:
            known, asked = order[place < self.shot], order[place >= self.shot]
        known = known[torch.randperm(len(known), generator=numbers)]
        asked = asked.sort().values if other is None else torch.arange(int(split.count.sum()))
        turns = torch.zeros(len(split.ids), dtype=torch.int64) if split.turns is None else split.turns
        if split.random_turns:
            turns = (turns + torch.randint(4, turns.shape, generator=numbers)) % 4
        of_asked = label if other is None else _labels(split)
        return _indices(pool, known, label[known], turns), _indices(split, asked, of_asked[asked], turns)


def _labels(split: Split) -> Tensor:
    """Return int64 [N], the class of each image, class by class."""
    return torch.arange(len(split.count)).repeat_interleave(split.count)


def _shuffled(split: Split, numbers: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return int64 [N] each: the class of an image, its place in it, and the images class by class in a drawn order."""
    label = _labels(split)
    place = torch.arange(len(label)) - (split.count.cumsum(0) - split.count)[label]
    return label, place, (label + torch.rand(len(label), generator=numbers, dtype=torch.float64)).argsort()


def _indices(split: Split, chosen: Tensor, y: Tensor, turns: Tensor) -> EpisodeIndices:
    """Return images that are counted class by class, with their labels [N], as places in the split's images."""
    place = chosen - (split.count.cumsum(0) - split.count)[y]
    image, classes = split.first[y] + place, torch.arange(len(split.count))
    return EpisodeIndices(classes[None], image[None], y[None], turns[y][None])


def _placed(part: EpisodeIndices, device: torch.device) -> Batch:
    places = torch.stack([part.image, part.turn], 2).to(device)
    return Batch(places, part.label.to(device), places[:, :0])


def _images(gather: ImageGather, places: Tensor) -> Tensor:
    image, turn = places.to(gather.home).unbind(1)
    return gather(EpisodeIndices(image[None], image[None], image[None], turn[None]), torch.empty(0))[0]
