"""A graph of an episode's images by their features, and labels that spread along it."""

import torch
from torch import Tensor

from metalab.core.typed_torch import solve_unchecked


def neighbours(features: Tensor, k: int) -> Tensor:
    """Return 1 where column j is among the k nearest others of row i, else 0, [N,N], of features [N,D]; not symmetric.

    k is at most N - 1. Which are near is a constant to gradients.
    """
    at = features.detach()
    inner = at @ at.T
    squares = inner.diagonal()
    apart = squares[:, None] + squares - 2 * inner  # not |a - b|^2 of all pairs, which takes N^2 D numbers
    itself = torch.eye(at.shape[0], device=at.device).bool()
    near = torch.where(itself, torch.inf, apart).topk(min(k, at.shape[0] - 1), largest=False).indices
    return (near[..., None] == torch.arange(at.shape[0], device=at.device)).to(features.dtype).sum(1)


def bound_updates(unary: Tensor, near: Tensor, lam: float, updates: int) -> Tensor:
    """Return the logits [N,K] of the assignments that lower unary cost and disagreement between neighbours.

    y <- softmax(-unary + lam * near @ y), so many times (Ziko et al. 2020, eq. 12 and algorithm 1; their
    lshot_update.py:78-104, which ends early once it has converged).

    Args:
        unary: cost of each query in each class [N,K].
        near: what each query's neighbours count [N,N].
        lam: weight of the neighbours.
        updates: how many.
    """
    logits = -unary
    for _ in range(updates):
        logits = lam * near @ logits.softmax(1) - unary
    return logits


def strongest(affinity: Tensor, k: int) -> Tensor:
    """Return the affinity [N,N] with 0 where neither row i nor row j has the pair among its k largest (their union)."""
    least = affinity.detach().topk(min(k, affinity.shape[0])).values[:, -1:]
    kept = affinity.detach() >= least
    return torch.where(kept | kept.T, affinity, 0.0)


def spread_labels(affinity: Tensor, labels: Tensor, alpha: float, eps: float = 0.0) -> Tensor:
    """Return F = (I - alpha S)^-1 Y [N,K], S = D^-1/2 W D^-1/2 (Zhou et al. 2004, eq. 4; Liu et al. 2019, eq. 4).

    Args:
        affinity: W [N,N], symmetric.
        labels: Y [N,K], one-hot; 0 for what has none.
        alpha: share of the neighbours in a label, 0..1.
        eps: added to the degrees.
    """
    root = (affinity.sum(0) + eps).rsqrt()
    normal = root[:, None] * affinity * root
    return solve_unchecked(
        torch.eye(labels.shape[0], dtype=labels.dtype, device=labels.device) - alpha * normal, labels
    )
