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

    Zhou, Yang, Loy, Liu 2022 (CoOp, sec. 4.1); Zhang et al. 2022 (Tip-Adapter, sec. 4.1), where the queries are a test
    set of their own. A pure function of (seed, stream, step); with the same seed the supports of fewer shots are among
    those of more. Raises UserError where a class has no image left for a query.
    """

    split: Split
    shot: int
    seed: int
    stream: str
    device: torch.device
    _gather: ImageGather = field(init=False, repr=False)

    def __post_init__(self) -> None:
        smallest = int(self.split.count.argmin())
        images = int(self.split.count[smallest])
        if images <= self.shot:
            advice = f"type task.shot={images - 1} or less, " if images > 1 else ""
            raise UserError(
                f"task=all_way task.shot={self.shot}: class {self.split.names[smallest]} has {images} image"
                f"{'s' * (images != 1)}, and one more is needed as a query: {advice}add images, or leave the class out"
            )
        self._gather = ImageGather(self.split, self.device, None)

    @property
    def queries(self) -> int:
        """How many images are queries of a draw."""
        return int(self.split.count.sum()) - len(self.split.ids) * self.shot

    def __call__(self, step: int) -> Episode:
        """Return draw `step` with a leading 1, on the device; its queries are images that are not read yet.

        The support's x is float32 [1,K shot,C,H,W] in [0,1], the query's int64 [1,Q,2], for `images`.
        """
        draw = self.indices(step)
        edge = len(self.split.ids) * self.shot
        y = draw.label.to(self.device)
        places = torch.stack([draw.image, draw.turn], 2)
        x, later = self.images(places[0, :edge])[None], places[:, edge:].to(self.device)
        return Episode(Batch(x, y[:, :edge], x[:, :0]), Batch(later, y[:, edge:], later[:, :0]))

    def images(self, places: Tensor) -> Tensor:
        """Return float32 [N,C,H,W] in [0,1] on the device, the images of places [N,2]: each image and its turn."""
        image, turn = places.to(self._gather.home).unbind(1)
        return self._gather(EpisodeIndices(image[None], image[None], image[None], turn[None]), torch.empty(0))[0]

    def indices(self, step: int) -> EpisodeIndices:
        """Return the classes, images, labels and turns of draw `step`, support first, with a leading 1, on the CPU."""
        numbers = generator(self.seed, self.stream, f"all_way/{step}")
        count = self.split.count
        start, classes = count.cumsum(0) - count, torch.arange(len(count))
        label = classes.repeat_interleave(count)
        place = torch.arange(len(label)) - start[label]  # within its class, also in an order of the same classes
        order = (label + torch.rand(len(label), generator=numbers, dtype=torch.float64)).argsort()
        known = order[place < self.shot]
        asked = order[place >= self.shot].sort().values
        item = torch.cat([known[torch.randperm(len(known), generator=numbers)], asked])
        y = label[item]
        turns = torch.zeros_like(classes) if self.split.turns is None else self.split.turns
        if self.split.random_turns:
            turns = (turns + torch.randint(4, turns.shape, generator=numbers)) % 4
        image = self.split.first[y] + place[item]
        return EpisodeIndices(classes[None], image[None], y[None], turns[y][None])
