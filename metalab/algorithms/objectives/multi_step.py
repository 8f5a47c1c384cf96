"""MAML++'s objective: the query loss after every inner step, and first-order gradients at the start of training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from metalab.algorithms.objectives.inner_gradient import Gradient, with_gradient
from metalab.algorithms.objectives.prediction import Prediction, evaluate_query
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Episode, Learner, Loss, TaskResult


@runtime_checkable
class ScheduledAlgorithm(Algorithm, Protocol):
    """An algorithm that says for which shares of training each step's loss counts, and gradients are first-order."""

    @property
    def multi_step_share(self) -> float: ...
    @property
    def first_order_share(self) -> float: ...


@dataclass(frozen=True)
class MultiStep:
    """The weighted sum of the query losses after steps 1, 2, ... (Antoniou et al. 2019, eq. 4); the last is shown."""

    algorithm: Algorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __post_init__(self) -> None:
        if not isinstance(self.algorithm, ScheduledAlgorithm):
            raise UserError(
                "algo.objective=metalab.algorithms.objectives.MultiStep needs the shares of training that algo=mamlpp "
                "has; for other algorithms type algo.objective=metalab.algorithms.objectives.QueryLoss"
            )
        if self.steps < 1:
            raise UserError(f"algo.steps={self.steps}: a multi-step loss needs 1 inner step or more")

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        scheduled, support = cast(ScheduledAlgorithm, self.algorithm), episode.support
        early = with_gradient(learner, constant_where(progress < scheduled.first_order_share))
        _, *models = scheduled.adapt(early, support, self.inner, self.steps)
        results = [
            evaluate_query(lambda x, m=m: self.predict(m, support.x, x), episode.query, self.outer) for m in models
        ]
        losses = torch.stack([result.loss for result in results])
        weights = step_weights(self.steps, progress, scheduled.multi_step_share).to(losses)
        return results[-1]._replace(loss=(weights * losses).sum())


def step_weights(steps: int, progress: Tensor, share: float) -> Tensor:
    """Return the weight [steps] of the loss after each step: equal at first, the last step's alone after `share`.

    All but the last fall linearly and not below 0.03 / steps until then, as in the paper's code.
    """
    left = 1 - progress / share if share else torch.zeros_like(progress)
    others = torch.where(left > 0, left.clamp(min=0.03), 0.0) / steps
    return torch.cat([others.expand(steps - 1), (1 - (steps - 1) * others)[None]])


def constant_where(constant: Tensor) -> Gradient:
    """Return gradients that are constants of the outer loop where `constant` (bool []) holds.

    A choice between two tensors, so that it may change in the middle of a training under vmap; it saves no time.
    """

    def gradient(
        learner: Learner, loss: Callable[[Learner], Tensor], names: list[str] | None, first_order: bool
    ) -> dict[str, Tensor]:
        found = learner.grad(loss, names, first_order)
        return {n: torch.where(constant, g.detach(), g) for n, g in found.items()}

    return gradient
