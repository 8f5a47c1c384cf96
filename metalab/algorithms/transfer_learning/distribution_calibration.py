"""Distribution calibration: Yang, Liu, Xu 2021, "Free Lunch for Few-shot Learning: Distribution Calibration"."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metalab.algorithms.components.base_statistics import BaseStatistics
from metalab.algorithms.components.distances import members, squared_distances
from metalab.algorithms.components.fixed_draws import normal_numbers
from metalab.algorithms.components.heads import linear_head
from metalab.algorithms.components.solvers.preconditioned_regression import preconditioned_regression
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class DistributionCalibration:
    """Train a plain classifier; for a task, fit a logistic regression to the support and to features drawn around it.

    Each support feature is given a normal distribution by the training classes that are nearest to it (eq. 4 to 6):
    their mean with it, and their mean covariance with alpha added to each entry. From those of a class `samples`
    features are drawn in all; of an unequal support as many a support image, and they count as `samples` a class. They
    are made of the same normal numbers in every episode, whatever device and batch. Their statistics
    are measured when an evaluation begins; validation during training has none, and draws nothing.

    nearest: training classes of a support feature (k). alpha: added to the covariances. power: Tukey's lambda of the
    features of support and queries, not of the training's, as in the authors' code (evaluate_DC.py); 1: as they are.
    """

    way: int
    nearest: int
    alpha: float
    power: float
    samples: int
    C: float
    iterations: int

    traits: ClassVar = AlgorithmTraits(frozen_body=True)

    def __post_init__(self) -> None:
        for key in ("nearest", "power", "samples", "C", "iterations"):
            check_positive(f"algo.{key}", getattr(self, key))
        if self.alpha < 0:
            raise UserError(f"algo.alpha={self.alpha:g}: expected 0 or more")

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": linear_head(features, self.way), "base": BaseStatistics(features, self.power != 1)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        def powered(x: Tensor) -> Tensor:
            f = learner.features(x).flatten(1)
            return f if self.power == 1 else f.relu() ** self.power

        known, buffers = powered(support.x), learner.buffers()
        drawn, of = self._drawn(known, support.y, buffers["base.mean"], buffers["base.root"])
        shots = members(support.y, self.way).to(known.dtype).sum(0)
        alike = shots.mean() / shots.clamp(min=1)  # [K]: what is drawn of a class counts as much as of any other
        counts = torch.cat([torch.ones_like(known[:, 0]), alike[of]])
        f, y = torch.cat([known, drawn]), torch.cat([support.y, of])
        weight, bias = preconditioned_regression(f, y, self.way, self.C, self.iterations, counts)
        yield lambda x: powered(x) @ weight.T + bias

    def _drawn(self, f: Tensor, y: Tensor, mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [N m,D] drawn around f [N,D] of labels y [N], and their labels; none without statistics.

        mean, root: of the training classes, as BaseStatistics has them.
        """
        if not mean.shape[0]:
            return f[:0], y[:0]
        near = min(self.nearest, mean.shape[0])
        chosen = squared_distances(f, mean).topk(near, largest=False).indices  # [N,k]
        center = (mean[chosen].sum(1) + f) / (near + 1)
        a_support = max(1, self.samples // max(1, f.shape[0] // self.way))
        z = torch.as_tensor(normal_numbers(f.shape[0], a_support, near * root.shape[1] + 1)).to(f)
        roots = root[chosen].flatten(1, 2) / near**0.5  # [N,k R,D]
        spread = z[..., :-1] @ roots + self.alpha**0.5 * z[..., -1:]
        return (center[:, None] + spread).flatten(0, 1), y.repeat_interleave(a_support)
