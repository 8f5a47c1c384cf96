"""Class means that images without labels move, each by its share of each class: soft k-means (Ren et al. 2018)."""

import torch
from torch import Tensor

from metalab.algorithms.components.distances import members, squared_distances


def refined_means(
    means: Tensor, known: Tensor, y: Tensor, others: Tensor, steps: int, temperature: float = 1.0
) -> Tensor:
    """Return the class means [K,D] after so many steps of soft k-means (Ren et al. 2018, eq. 3 and 4).

    Args:
        means: of the labelled images [K,D].
        known: features of the labelled images [M,D].
        y: their labels [M].
        others: features of those without labels [U,D].
        steps: how many.
        temperature: squared distances are divided by it before the softmax; theirs is 1.
    """
    images, labelled = torch.cat([known, others]), members(y, means.shape[0]).to(known.dtype)
    for _ in range(steps):
        shares = (-squared_distances(others, means) / temperature).softmax(1)  # [U,K]
        weights = torch.cat([labelled, shares])
        means = (weights / weights.sum(0)).T @ images
    return means
