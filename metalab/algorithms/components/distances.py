"""What metric algorithms share: how alike features are, and from support images to their classes."""

import torch
import torch.nn.functional as F
from torch import Tensor


def members(y: Tensor, way: int) -> Tensor:
    """Return which of the images with labels y [M] belongs to which class, bool [M,K]."""
    return y[:, None] == torch.arange(way, device=y.device)  # one_hot fails under vmap


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Euclidean distance [N,M] of each of a [N,D] to each of b [M,D]."""
    return (a[:, None] - b).square().sum(-1)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the Euclidean distance [N,M] of each of a [N,D] to each of b [M,D]; its gradient is 0 where they meet."""
    return squared_distances(a, b).clamp(min=1e-12).sqrt()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine [N,M] of each of a [N,D] and each of b [M,D]."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def best_of_class(scores: Tensor, y: Tensor, way: int) -> Tensor:
    """Return the highest of the scores [N,M] among the images of each class, [N,K]; y [M] are their labels."""
    return torch.where(members(y, way), scores[:, :, None], -torch.inf).amax(1)


def log_mass_of_class(scores: Tensor, y: Tensor, way: int) -> Tensor:
    """Return the logarithm [N,K] of the share of softmax(scores [N,M]) that falls on each class."""
    return torch.where(members(y, way), scores.log_softmax(1)[:, :, None], -torch.inf).logsumexp(1)


def class_means(features: Tensor, y: Tensor, way: int) -> Tensor:
    """Return the mean [K,D] of the features [N,D] of each class."""
    member = (y[:, None] == torch.arange(way, device=y.device)).to(features.dtype)  # [N,K]; one_hot fails under vmap
    return (member / member.sum(0)).T @ features
