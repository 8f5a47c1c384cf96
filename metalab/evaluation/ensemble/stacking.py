"""Stacking (Wolpert 1992): a logistic regression on the members' log-probabilities, one weight a member."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metalab.evaluation.ensemble.combine import LEAST, log_probabilities


def fit_weights(logits: Sequence[Sequence[Tensor]], labels: Sequence[Tensor]) -> list[float]:
    """Return the weights w [M] of the least sum_n -log softmax(sum_m w_m log p_m(n))[y_n] + |w|^2 / 2.

    As every class has the same weights, they hold for other classes and for any number of them (McFadden's conditional
    logit, 1974). The penalty is scikit-learn's for C=1: it is what makes the least unique, and beside thousands of
    queries it is nothing. The sum is convex; computed in float64.

    Args:
        logits: of each member, of each meta-batch: [T,N,K], whose N and K may differ between meta-batches.
        labels: int64 [T,N] of each meta-batch.
    """
    from scipy.optimize import minimize  # a second, which no --help should wait for

    x, absent, y = _rows(logits, labels)
    rows, members = torch.arange(len(y)), x.shape[1]

    def shares(w: np.ndarray) -> tuple[Tensor, Tensor]:
        made = torch.einsum("m,nmk->nk", torch.from_numpy(w), x).masked_fill(absent, -torch.inf).log_softmax(1)
        return made, made.exp()

    def loss(w: np.ndarray) -> float:
        return float(-shares(w)[0][rows, y].sum()) + float(w @ w) / 2

    def gradient(w: np.ndarray) -> np.ndarray:
        expected = torch.einsum("nk,nmk->m", shares(w)[1], x)
        return (expected - x[rows, :, y].sum(0)).numpy() + w

    def hessian(w: np.ndarray) -> np.ndarray:
        p = shares(w)[1]
        mean = torch.einsum("nk,nmk->nm", p, x)
        return (torch.einsum("nk,nmk,nlk->ml", p, x, x) - mean.T @ mean).numpy() + np.eye(members)

    start = np.full(members, 1 / members)
    found = minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-8})
    return [float(w) for w in found.x]


def _rows(logits: Sequence[Sequence[Tensor]], labels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities float64 [Q,M,K], which classes a query does not have, bool [Q,K], and labels [Q]."""
    most = max(each.shape[-1] for each in logits[0])
    found, absent = [], []
    for parts in zip(*logits, strict=True):
        x = torch.stack([log_probabilities(part.flatten(0, 1)).clamp(min=LEAST) for part in parts], 1)
        missing = most - x.shape[2]
        found.append(torch.nn.functional.pad(x, (0, missing)))
        absent.append((torch.arange(most) >= x.shape[2]).expand(len(x), -1))
    return torch.cat(found), torch.cat(absent), torch.cat([each.flatten() for each in labels])
