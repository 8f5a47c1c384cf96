"""A support in two: one image of each class to learn from, and the others to see how well that went."""

import torch

from metalab.algorithms.components.distances import members
from metalab.core.interfaces import Batch


def first_and_others(support: Batch, way: int) -> tuple[Batch, Batch]:
    """Return each class's first image, in the order of the classes, and the others in their own; under vmap, too."""
    place = torch.arange(len(support.y), device=support.y.device)
    first = (members(support.y, way) * (len(place) - place)[:, None]).argmax(0)  # [K]; argmax may take any of equals
    others = (place[:, None] == first).any(1).to(torch.int8).argsort(stable=True)[: len(place) - way]
    known = support._replace(x=support.x[first], y=place[:way])
    return known, support._replace(x=support.x[others], y=support.y[others])
