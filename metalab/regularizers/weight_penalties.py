"""Penalties on the weights: L2, and the squared norm of the support loss's gradient."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from metalab.algorithms.components.inner_loop import weights
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode, Learner, Loss, Model, Objective, TaskResult
from metalab.regularizers.base import Hooks, ObjectiveContext, ObjectiveFactory, identity_loss


def half_square(parameters: dict[str, Tensor]) -> Tensor:
    """Return 1/2 |theta|^2 over all weights of the net; learned rates and the like are not decayed."""
    return torch.stack([parameters[n].square().sum() for n in weights(parameters)]).sum() / 2


@dataclass(frozen=True)
class L2:
    """Add weight/2 |theta|^2 to the outer loss and inner/2 |theta'|^2 to the loss of each inner step.

    As a term of the loss, so that it means the same for every optimizer; optim.weight_decay is AdamW's decoupled one.
    """

    weight: float
    inner: float

    def __post_init__(self) -> None:
        if self.weight < 0 or self.inner < 0:
            raise UserError(f"reg.l2 has weight={self.weight}, inner={self.inner}; both must be 0 or more")

    def hooks(self) -> Hooks:
        def decayed(loss: Loss) -> Loss:
            def value(model: Model, batch: Batch) -> Tensor:
                return loss(model, batch) + self.inner * half_square(cast(Learner, model).parameters())

            return value

        return Hooks(
            inner=decayed if self.inner else identity_loss,
            penalty=lambda learner: self.weight * half_square(learner.parameters()),
        )


@dataclass(frozen=True)
class GradientNorm:
    """Add weight |grad_theta L_k|^2 to the loss of each task k, with L_k the support loss at theta.

    The inner steps are untouched. L_k is the loss of the model before the first inner step (for a metric method: the
    one made from the support itself); the gradient is over all weights of the net.
    """

    weight: float

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise UserError(f"reg.gradient_norm.weight={self.weight:g}: expected 0 or more")

    def hooks(self) -> Hooks:
        def wrap_objective(make: ObjectiveFactory, setting: ObjectiveContext) -> ObjectiveFactory:
            return lambda outer: Squared(make(outer), setting, self.weight)

        return Hooks(wrap_objective=wrap_objective, support=True)


@dataclass(frozen=True)
class Squared:
    """An objective with weight |grad_theta L|^2 on its loss."""

    objective: Objective
    setting: ObjectiveContext
    weight: float

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        algorithm, steps, inner = self.setting

        def loss(at: Learner) -> Tensor:
            first = next(iter(algorithm.adapt(at, episode.support, inner, steps)))
            return inner(first, episode.support)

        gradient = learner.grad(loss, weights(learner.parameters()))
        result = self.objective(learner, episode, progress)
        square = torch.stack([g.square().sum() for g in gradient.values()]).sum()
        return result._replace(loss=result.loss + self.weight * square)
