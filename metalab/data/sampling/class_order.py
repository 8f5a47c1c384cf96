"""A split's classes in the order of another list of labels, which may have more classes than the split."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from metalab.core.interfaces import Split


class Labels(NamedTuple):
    """The classes of a classifier, in the order of its outputs."""

    ids: list[str]  # [K] global class ids
    names: list[str]  # [K] what people are shown


def classifier_labels(split: Split) -> Labels:
    """Return the classes of the classifier that a training on this split makes; none where there are episodes."""
    return Labels(split.ids, split.names) if split.by_image else Labels([], [])


def union(kept: Labels, split: Split) -> Labels:
    """Return the kept labels, and behind them those classes of the split that are not among them."""
    new = [(k, name) for k, name in zip(split.ids, split.names, strict=True) if k not in set(kept.ids)]
    return Labels([*kept.ids, *(k for k, _ in new)], [*kept.names, *(name for _, name in new)])


def relabelled(split: Split, labels: Labels) -> Split:
    """Return the split with its classes at the places of these labels; a label that it does not have has no images.

    Args:
        split: without families and fixed episodes, each of its ids once.
        labels: all the split's ids, and maybe others.

    Returns:
        The same images, of len(labels.ids) classes.
    """
    if split.ids == labels.ids:
        return split
    own = {class_id: k for k, class_id in enumerate(split.ids)}
    place = torch.tensor([own.get(class_id, -1) for class_id in labels.ids])
    there = place >= 0

    def placed(of_class: torch.Tensor) -> torch.Tensor:
        return torch.where(there, of_class[place.clamp(min=0)], 0)

    return replace(
        split,
        first=placed(split.first),
        count=placed(split.count),
        ids=list(labels.ids),
        names=list(labels.names),
        turns=None if split.turns is None else placed(split.turns),
        aliases=aliases_at(split, place.tolist()),
    )


def aliases_at(split: Split, chosen: Sequence[int]) -> list[str]:
    """Return the further ids of these of a split's classes, in this order; of class -1, which it does not have, ""."""
    blocks = [split.aliases[i : i + len(split.ids)] for i in range(0, len(split.aliases), len(split.ids))]
    return ["" if k < 0 else block[k] for block in blocks for k in chosen]


def is_among(ids: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether each of the ids is one of the labels, and stands once."""
    return len(set(ids)) == len(ids) and set(ids) <= set(labels)
