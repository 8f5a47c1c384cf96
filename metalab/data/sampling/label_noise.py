"""Wrong labels in the support: symmetric label swap noise, as Liang, Rangrej, Petrovic, Hassner 2022 test it."""

import torch
from torch import Tensor

from metalab.data.sampling.episode_size import Numbers


def swapped_labels(label: Tensor, way: int, wrong: int, numbers: Numbers) -> Tensor:
    """Return the labels with `wrong` of each class given to other classes of the episode.

    Each class gives away as many images as it is given, so that all keep their number. A wrong image's label is any
    other class with equal chance; the wrong images of one class have different ones as far as there are any.

    Args:
        label: int64 [T,S], true labels of the support in random order, as many of each class.
        way: the number of classes.
        wrong: images a class, less than it has.
        numbers: from a generator.
    """
    member = label[..., None] == torch.arange(way)  # [T,S,way]
    place = (member.cumsum(1) * member).sum(2) - 1  # [T,S], which of its class's images each is, from 0
    shift = 1 + numbers(len(label), way - 1).argsort(1)  # [T,way-1]
    moved = (label + shift.gather(1, place % (way - 1))) % way
    return torch.where(place < wrong, moved, label)
