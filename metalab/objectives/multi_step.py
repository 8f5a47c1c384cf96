"""MAML++'s objective: the query loss after every inner step, and first-order gradients at the start of training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from metalab.algorithms.mamlpp import MAMLPP
from metalab.errors import UserError
from metalab.interfaces import Algorithm, Episode, Learner, Loss, TaskResult
from metalab.objectives.judge import Prediction, judged


@dataclass(frozen=True)
class MultiStep:
    """The weighted sum of the query losses after steps 1, 2, ... (Antoniou et al. 2019, eq. 4); the last is shown."""

    algorithm: Algorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __post_init__(self) -> None:
        if not isinstance(self.algorithm, MAMLPP):
            raise UserError(
                "algo.objective=metalab.objectives.multi_step.MultiStep needs the shares of training that algo=mamlpp "
                "has; for other algorithms type algo.objective=metalab.objectives.query.QueryLoss"
            )
        if self.steps < 1:
            raise UserError(f"algo.steps={self.steps}: a multi-step loss needs 1 inner step or more")

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        mamlpp, support = cast(MAMLPP, self.algorithm), episode.support
        early = cast(Learner, EarlyFirstOrder(learner, progress < mamlpp.first_order_share))
        _, *models = mamlpp.adapt(early, support, self.inner, self.steps)
        results = [judged(lambda x, m=m: self.predict(m, support.x, x), episode.query, self.outer) for m in models]
        losses = torch.stack([result.loss for result in results])
        weights = step_weights(self.steps, progress, mamlpp.multi_step_share).to(losses)
        return results[-1]._replace(loss=(weights * losses).sum())


def step_weights(steps: int, progress: Tensor, share: float) -> Tensor:
    """Return the weight [steps] of the loss after each step: equal at first, the last step's alone after `share`.

    All but the last fall linearly and not below 0.03 / steps until then, as in the paper's code.
    """
    left = 1 - progress / share if share else torch.zeros_like(progress)
    others = torch.where(left > 0, left.clamp(min=0.03), 0.0) / steps
    return torch.cat([others.expand(steps - 1), (1 - (steps - 1) * others)[None]])


class EarlyFirstOrder:
    """A learner whose gradients are constants of the outer loop where `constant` (bool []) holds.

    A choice between two tensors, so that it may change in the middle of a training under vmap; it saves no time.
    """

    def __init__(self, learner: Learner, constant: Tensor) -> None:
        self.learner, self.constant = learner, constant

    def __call__(self, x: Tensor) -> Tensor:
        return self.learner(x)

    def features(self, x: Tensor) -> Tensor:
        return self.learner.features(x)

    def part(self, name: str, *args: Tensor) -> Tensor:
        return self.learner.part(name, *args)

    def parameters(self) -> dict[str, Tensor]:
        return self.learner.parameters()

    def buffers(self) -> dict[str, Tensor]:
        return self.learner.buffers()

    def grad(
        self, loss: Callable[[Learner], Tensor], names: list[str] | None = None, first_order: bool = False
    ) -> dict[str, Tensor]:
        gradient = self.learner.grad(loss, names, first_order)
        return {n: torch.where(self.constant, g.detach(), g) for n, g in gradient.items()}

    def replace(self, tensors: dict[str, Tensor]) -> "EarlyFirstOrder":
        return EarlyFirstOrder(self.learner.replace(tensors), self.constant)
