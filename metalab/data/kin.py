"""Families of classes, of one of which each episode is."""

from collections.abc import Callable

import torch
from torch import Tensor

from metalab.interfaces import Kin, Split


def kin(names: list[str], source: str, of: Callable[[str], str]) -> Kin:
    """Return the families of one data set's classes; `of` says a class's family by its name, each as frequent."""
    families = sorted({of(name) for name in names})
    number = {name: i for i, name in enumerate(families)}
    family = torch.tensor([number[of(name)] for name in names])
    return Kin(family, families, [source] * len(families), torch.ones(len(families), dtype=torch.float64))


def sizes(kin: Kin) -> Tensor:
    """Return int64 [F], how many classes each family has."""
    return kin.family.bincount(minlength=len(kin.names))


def largest(kin: Kin, source: str) -> tuple[str, int]:
    """Return the name and the number of classes of a data set's largest family."""
    counts = sizes(kin).tolist()
    classes, name = max((counts[i], kin.names[i]) for i, owner in enumerate(kin.source) if owner == source)
    return name, classes


def shares(kin: Kin, classes: int) -> Tensor:
    """Return float64 [F], how often an episode of so many classes is of each family.

    A family with fewer classes gives none; its share goes to the others of its data set.
    """
    fits = (sizes(kin) >= classes).double()
    share = torch.zeros_like(kin.weight)
    for source in dict.fromkeys(kin.source):
        own = torch.tensor([owner == source for owner in kin.source]).double() * kin.weight
        if (own * fits).sum() > 0:
            share += own * fits * (own.sum() / (own * fits).sum())
    return share / share.sum()


def most_classes(split: Split) -> int:
    """Return how many classes an episode can have, of whatever data set it is."""
    if split.kin is None:
        return len(split.ids)
    return min(largest(split.kin, source)[1] for source in set(split.kin.source))
