"""Class means that the queries move: shifted towards the support, and pseudo-labelled (Liu et al. 2020)."""

from typing import Literal

import torch
from torch import Tensor

from metalab.algorithms.components.distances import class_means, cosines, members

Weighting = Literal["images", "classes"]


def shifted(known: Tensor, asked: Tensor) -> Tensor:
    """Return the queries' features asked [N,D] moved so that their mean is the support's, of known [M,D] (eq. 8)."""
    return asked + known.mean(0) - asked.mean(0)


def rectified(known: Tensor, y: Tensor, asked: Tensor, way: int, scale: float, weighting: Weighting) -> Tensor:
    """Return the prototypes [K,D] of a support and of the queries, each under the class whose mean is nearest.

    Args:
        known: features of the support [M,D].
        y: its labels [M].
        asked: features of the queries [N,D], shifted.
        way: the number of classes.
        scale: cosines to the class means are multiplied by it before a softmax.
        weighting: what that softmax is over. images: a prototype is the mean of the class's images, each weighted by
            its cosine among them (Liu et al. 2020, eq. 6 and 7). classes: the sum of its images, each times its share
            of the class, over their number, so that a prototype is shorter than its images (Ziko et al. 2020, their
            code train_lshot.py:603-616).
    """
    similarity = scale * cosines(torch.cat([known, asked]), class_means(known, y, way))  # [M+N,K]
    labels = torch.cat([y, similarity[y.shape[0] :].argmax(1)])
    of_class = members(labels, way)  # none is empty: the support's images keep their labels
    if weighting == "images":
        weights = torch.where(of_class, similarity, -torch.inf).softmax(0)
    else:
        weights = torch.where(of_class, similarity.softmax(1), 0.0) / of_class.sum(0)
    return weights.T @ torch.cat([known, asked])
