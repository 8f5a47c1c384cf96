"""Losses of an episode beside cross-entropy, as algo.episode_loss names them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.algorithms.components.distances import members
from metalab.core.interfaces import Batch, Model


def targets(logits: Tensor, y: Tensor) -> Tensor:
    """Return 1 for the class of each image and 0 for the others, as the logits [N,K] are."""
    return members(y, logits.shape[-1]).to(logits.dtype)


def binary_cross_entropy_of_shares(model: Model, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of each class on its own, yes or no, with its share of the softmax for a yes.

    For logits that are never above 0, logarithms of shares or distances, whose sigmoid would never be a yes.
    """
    logits = model(batch.x)
    yes = members(batch.y, logits.shape[-1])
    return -torch.where(yes, logits.log_softmax(1), log_others(logits)).mean()


def log_others(logits: Tensor) -> Tensor:
    """Return log(1 - p) [N,K] of the softmax's p, as the sum over the other classes: 1 - p itself rounds to 0."""
    same = torch.eye(logits.shape[1], device=logits.device).bool()
    others = logits[:, None, :].masked_fill(same, -torch.inf).logsumexp(2)
    return others - logits.logsumexp(1, keepdim=True)


def mean_squared_error(model: Model, batch: Batch) -> Tensor:
    """Return the mean of (sigmoid(logit) - target)^2 (Relation networks, Sung et al. 2018, eq. 2)."""
    logits = model(batch.x)
    return F.mse_loss(logits.sigmoid(), targets(logits, batch.y))


def binary_cross_entropy(model: Model, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of each class on its own, yes or no."""
    logits = model(batch.x)
    return F.binary_cross_entropy_with_logits(logits, targets(logits, batch.y))
