"""Maximum mean discrepancy between the features of source and target: Gretton et al. 2012; Long et al. 2015 (DAN)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import Learner
from metalab.regularizers.base import Hooks
from metalab.regularizers.target_features import target_hooks

Estimator = Literal["unbiased", "biased"]
LEAST = 1e-12  # of the mean squared distance: features that are all the same have none


@dataclass(frozen=True)
class MMD:
    """Add weight x the squared MMD between the features of source and target to the outer loss.

    The kernel is the sum over `multiples` m of exp(-|a - b|^2 / (m s)), s the mean squared distance between two of the
    features, held constant (Long et al. 2015, sec. 3.1, where the multiples have weights that are learned). On one
    layer, what head and metrics read; DAN adds those behind it. estimator: unbiased (Gretton et al. 2012, eq. 3), which
    may be below 0, or biased (eq. 5, squared), which counts each image with itself. See target_features.py for joint.
    """

    weight: float
    multiples: tuple[float, ...]
    estimator: Estimator
    joint: bool

    def __post_init__(self) -> None:
        if not self.multiples or min(self.multiples) <= 0:
            raise UserError(f"reg.mmd.multiples={list(self.multiples)}: expected numbers above 0, as [0.5,1,2]")
        self.hooks()

    def hooks(self) -> Hooks:
        def term(learner: Learner, source: Tensor, target: Tensor, progress: Tensor) -> Tensor:
            return squared_mmd(source, target, self.multiples, self.estimator)

        return target_hooks("mmd", term, self.weight, self.joint)


def squared_mmd(source: Tensor, target: Tensor, multiples: tuple[float, ...], estimator: Estimator) -> Tensor:
    """Return the estimate of the squared MMD, a scalar, from features [N,D] and [M,D].

    Raises:
        UserError: where a domain has one image only and the estimator takes two.
    """
    n, m = source.shape[0], target.shape[0]
    if min(n, m) < 2:
        raise UserError(f"reg.mmd compares {n} images with {m}: 2 or more of each are needed; give more queries")
    distances = squared_distances(torch.cat([source, target]))
    scale = (distances.detach().sum() / ((n + m) * (n + m - 1))).clamp(min=LEAST)
    kernel = torch.stack([(-distances / (multiple * scale)).exp() for multiple in multiples]).sum(0)
    own = [kernel[:n, :n].sum(), kernel[n:, n:].sum()]
    among = [n * n, m * m]
    if estimator == "unbiased":  # without the diagonal, where each kernel is 1
        own = [total - len(multiples) * count for total, count in zip(own, (n, m), strict=True)]
        among = [n * (n - 1), m * (m - 1)]
    return own[0] / among[0] + own[1] / among[1] - 2 * kernel[:n, n:].mean()


def squared_distances(x: Tensor) -> Tensor:
    """Return |x_i - x_j|^2 [N,N] of x [N,D] by inner products, from the mean: they lose fewer digits there."""
    centred = x - x.detach().mean(0)
    inner = centred @ centred.T
    square = inner.diagonal()
    others = 1 - torch.eye(x.shape[0], dtype=x.dtype, device=x.device)
    return (square[:, None] + square - 2 * inner).clamp(min=0) * others
