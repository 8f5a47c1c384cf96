"""Feature extraction: Tian, Wang, Krishnan, Tenenbaum, Isola 2020, sec. 3.2: logistic regression on frozen features."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.heads import linear_head
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class FeatureExtraction:
    """Train body and head on all training classes; for a task, fit a logistic regression to the unit features.

    C: weight of the data against |W|^2 / 2, as in scikit-learn, whose solver does not run under vmap nor on a GPU;
    iterations: of Nesterov's accelerated gradient, with the step that always descends.
    """

    way: int
    C: float
    iterations: int

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True)

    def __post_init__(self) -> None:
        check_positive("algo.C", self.C)
        check_positive("algo.iterations", self.iterations)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": linear_head(features, self.way)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        def units(x: Tensor) -> Tensor:
            return F.normalize(learner.features(x).flatten(1), dim=1)

        weight, bias = logistic_regression(units(support.x), support.y, self.way, self.C, self.iterations)
        yield lambda x: units(x) @ weight.T + bias


def logistic_regression(f: Tensor, y: Tensor, way: int, c: float, iterations: int) -> tuple[Tensor, Tensor]:
    """Return W [K,D] and b [K] of the least |W|^2 / 2 + c * sum of cross-entropies of unit features f [N,D]."""
    onto = (y[:, None] == torch.arange(way, device=y.device)).to(f.dtype)
    ones = torch.cat([f, f.new_ones(f.shape[0], 1)], 1)  # the last column is the bias, which is not decayed
    decay = torch.cat([f.new_ones(f.shape[1]), f.new_zeros(1)])
    steepest = 1 + c * f.shape[0]  # of the gradient: 1/2 of the softmax's times 2 N, the rows' squared lengths
    momentum = (steepest**0.5 - 1) / (steepest**0.5 + 1)
    at = ahead = f.new_zeros(way, ones.shape[1])
    for _ in range(iterations):
        gradient = decay * ahead + c * ((ones @ ahead.T).softmax(1) - onto).T @ ones
        before, at = at, ahead - gradient / steepest
        ahead = at + momentum * (at - before)
    return at[:, :-1], at[:, -1]
