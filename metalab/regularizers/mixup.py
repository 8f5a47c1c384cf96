"""Mixed queries: mixup and CutMix inside each episode, in training."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor

from metalab.config.validate import check_positive
from metalab.core.interfaces import Batch, Loss, Model
from metalab.regularizers.base import IMAGES, Hooks
from metalab.regularizers.output_penalties import CachedModel

POINTS = 4096  # of the table from which a Beta number is drawn: vmap has no rule for torch's own


@cache  # once on a device, not once a task
def table(alpha: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the quantiles of Beta(alpha, alpha) at evenly spaced shares."""
    quantiles = beta(alpha, alpha).ppf((np.arange(POINTS) + 0.5) / POINTS)
    return torch.from_numpy(quantiles).to(device, dtype)


def mixed(pair: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[[Loss], Loss]:
    """Wrap a loss so that it is taken on mixtures; pair(x, others) returns them and the share of x, a scalar."""

    def wrap(loss: Loss) -> Loss:
        def value(model: Model, batch: Batch) -> Tensor:
            order = torch.rand_like(batch.x[:, 0, 0, 0]).argsort()
            x, share = pair(batch.x, batch.x[order])
            known = CachedModel(model, x, model(x))
            one, two = (loss(known, Batch(x, y, batch.unlabelled)) for y in (batch.y, batch.y[order]))
            return share * one + (1 - share) * two

        return value

    return wrap


def share_of(alpha: float, like: Tensor) -> Tensor:
    """Draw one number of Beta(alpha, alpha) in the type and place of `like`."""
    return beta_numbers(alpha, like[0, 0, 0, :1])[0]  # under vmap a number of its own is no index


def beta_numbers(alpha: float, like: Tensor) -> Tensor:
    """Draw numbers [N] of Beta(alpha, alpha) in the type and place of `like` [N]."""
    place = (torch.rand_like(like) * POINTS).long().clamp(max=POINTS - 1)
    return table(alpha, like.dtype, like.device).gather(0, place)


@dataclass(frozen=True)
class Mixup:
    """Make the queries lam x + (1 - lam) x', and mix their losses alike, lam ~ Beta (Zhang et al. 2018, eq. 1)."""

    alpha: float

    def __post_init__(self) -> None:
        check_positive("reg.mixup.alpha", self.alpha)

    def hooks(self) -> Hooks:
        def pair(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
            share = share_of(self.alpha, x)
            return share * x + (1 - share) * other, share

        return Hooks(outer=mixed(pair), query=True, rank=IMAGES)


@dataclass(frozen=True)
class CutMix:
    """Paste a box of another query, 1 - lam of the area; mix the losses by the true areas (Yun et al. 2019, eq. 1)."""

    alpha: float

    def __post_init__(self) -> None:
        check_positive("reg.cutmix.alpha", self.alpha)

    def hooks(self) -> Hooks:
        def pair(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
            half = (1 - share_of(self.alpha, x)).sqrt() / 2

            def along(length: int) -> Tensor:
                middle = torch.rand_like(x[0, 0, 0, 0]) * length
                return (torch.arange(length, device=x.device) + 0.5 - middle).abs() <= half * length

            inside = along(x.shape[-2])[:, None] & along(x.shape[-1])
            share = 1 - inside.to(x.dtype).mean()
            return torch.where(inside, other, x), share

        return Hooks(outer=mixed(pair), query=True, rank=IMAGES)
