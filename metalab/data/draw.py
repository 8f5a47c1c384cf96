"""Which images make an episode: its indices, drawn for many episodes at once by tensor operations."""

from typing import NamedTuple

import torch
from torch import Tensor

from metalab.interfaces import Fixed, Split


class Sizes(NamedTuple):
    """The size of an episode."""

    way: int
    shot: int
    query: int
    unlabelled: int = 0  # images a class without a label, beside the support
    distractors: int = 0  # classes that have nothing but unlabelled images

    @property
    def a_class(self) -> int:
        """Images that a class must have."""
        return self.shot + self.query + self.unlabelled

    @property
    def edges(self) -> list[int]:
        """How many images are support, query and unlabelled."""
        return [self.way * self.shot, self.way * self.query, (self.way + self.distractors) * self.unlabelled]


class Draw(NamedTuple):
    """What T episodes are made of: N images, the support first, then the queries, the unlabelled, each shuffled."""

    classes: Tensor  # int64 [T,way+distractors], class of each label
    image: Tensor  # int64 [T,N], index into split.images
    label: Tensor  # int64 [T,N], 0..way-1; the unlabelled have theirs, too, distractors from way on
    turn: Tensor  # int64 [T,N], quarter turns, 0..3, counter-clockwise


def drawn(split: Split, sizes: Sizes, episodes: int, generator: torch.Generator) -> Draw:
    """Draw the indices of so many episodes; the split must have what the sizes ask for."""

    def numbers(*shape: int) -> Tensor:  # float64: two equal numbers, whose order nobody defines, do not happen
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    way, shot, query, unlabelled, distractors = sizes
    classes = numbers(episodes, len(split.ids)).topk(way + distractors).indices  # in random order: labels are shuffled
    count = split.count[classes]
    keys = numbers(episodes, way + distractors, int(split.count.max()))
    keys.masked_fill_(torch.arange(keys.shape[2]) >= count[..., None], -1.0)
    image = split.first[classes][..., None] + keys.topk(sizes.a_class).indices  # [T,way+distractors,images a class]
    turn = torch.zeros_like(classes) if split.turns is None else split.turns[classes]
    if split.random_turns:
        turn = (turn + torch.randint(4, classes.shape, generator=generator)) % 4
    parts = [image[:, :way, :shot].flatten(1), image[:, :way, shot : shot + query].flatten(1)]
    # Shuffled within the support and within the query: Reptile walks through the support in mini-batches.
    order = [numbers(episodes, way * size).argsort(1) for size in (shot, query)]
    label = [order[0] // shot, order[1] // query]
    if unlabelled:
        of_classes, of_others = image[:, :way, shot + query :], image[:, way:, :unlabelled]
        parts.append(torch.cat([of_classes, of_others], 1).flatten(1))
        order.append(numbers(*parts[2].shape).argsort(1))
        label.append(order[2] // unlabelled)
    joined = torch.cat(label, 1)
    image = torch.cat([part.gather(1, o) for part, o in zip(parts, order, strict=True)], 1)
    return Draw(classes, image, joined, turn.gather(1, joined))


def given(split: Split, fixed: Fixed) -> Draw:
    """Return the indices of the fixed episodes, in their order."""
    way = fixed.classes.shape[1]
    image = split.first[fixed.classes][..., None] + torch.arange(fixed.shot + fixed.query)
    label = torch.arange(way)[:, None].expand(way, fixed.shot + fixed.query)
    image, label = (
        torch.cat([t[..., : fixed.shot].flatten(-2), t[..., fixed.shot :].flatten(-2)], -1) for t in (image, label)
    )
    return Draw(fixed.classes, image, label.expand_as(image), torch.zeros_like(image))
