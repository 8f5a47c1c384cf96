"""Families of classes, of one of which each episode is."""

from collections.abc import Callable

import torch
from torch import Tensor

from metalab.core.interfaces import ClassFamilies, Split


def build_families(names: list[str], source: str, of: Callable[[str], str]) -> ClassFamilies:
    """Return the families of one data set's classes; `of` says a class's family by its name, each as frequent."""
    families = sorted({of(name) for name in names})
    number = {name: i for i, name in enumerate(families)}
    family = torch.tensor([number[of(name)] for name in names])
    return ClassFamilies(family, families, [source] * len(families), torch.ones(len(families), dtype=torch.float64))


def sizes(families: ClassFamilies) -> Tensor:
    """Return int64 [F], how many classes each family has."""
    return families.family.bincount(minlength=len(families.names))


def largest(families: ClassFamilies, source: str) -> tuple[str, int]:
    """Return the name and the number of classes of a data set's largest family."""
    counts = sizes(families).tolist()
    classes, name = max((counts[i], families.names[i]) for i, owner in enumerate(families.source) if owner == source)
    return name, classes


def shares(families: ClassFamilies, classes: int) -> Tensor:
    """Return float64 [F], how often an episode of so many classes is of each family.

    A family with fewer classes gives none; its share goes to the others of its data set.
    """
    fits = (sizes(families) >= classes).double()
    share = torch.zeros_like(families.weight)
    for source in dict.fromkeys(families.source):
        own = torch.tensor([owner == source for owner in families.source]).double() * families.weight
        if (own * fits).sum() > 0:
            share += own * fits * (own.sum() / (own * fits).sum())
    return share / share.sum()


def most_classes(split: Split) -> int:
    """Return how many classes an episode can have, of whatever data set it is."""
    if split.families is None:
        return len(split.ids)
    return min(largest(split.families, source)[1] for source in set(split.families.source))
