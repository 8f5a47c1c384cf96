"""Regularisation as a list of parts, each with its own weight: `reg=[l2,dropout]`.

A regulariser's terms() says what it changes; what it does not name stays as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from metalab.errors import UserError
from metalab.interfaces import Batch, Episode, Learner, Loss, Model, Objective, TaskResult


def same_loss(loss: Loss) -> Loss:
    """Return the loss as it is."""
    return loss


def nothing(learner: Learner) -> Tensor | None:
    """Add no penalty."""
    return None


class Terms(NamedTuple):
    """What a regulariser changes."""

    inner: Callable[[Loss], Loss] = same_loss  # the loss of the inner steps
    outer: Callable[[Loss], Loss] = same_loss  # the loss on the query, in training
    penalty: Callable[[Learner], Tensor | None] = nothing  # added to the outer loss, a function of the start theta
    drop: nn.Module | None = None  # behind the body, in training only


class Regulariser(Protocol):
    def terms(self) -> Terms: ...


def half_square(parameters: dict[str, Tensor]) -> Tensor:
    """Return 1/2 |theta|^2 over body and head; learned rates and the like are not decayed."""
    decayed = [p.square().sum() for n, p in parameters.items() if n.startswith(("body.", "head."))]
    return torch.stack(decayed).sum() / 2


@dataclass(frozen=True)
class L2:
    """Add weight/2 |theta|^2 to the outer loss and inner/2 |theta'|^2 to the loss of each inner step.

    As a term of the loss, so that it means the same for every optimiser; optim.weight_decay is AdamW's decoupled one.
    """

    weight: float
    inner: float

    def __post_init__(self) -> None:
        if self.weight < 0 or self.inner < 0:
            raise UserError(f"reg.l2 has weight={self.weight}, inner={self.inner}; both must be 0 or more")

    def terms(self) -> Terms:
        def decayed(loss: Loss) -> Loss:
            def value(model: Model, batch: Batch) -> Tensor:
                return loss(model, batch) + self.inner * half_square(cast(Learner, model).parameters())

            return value

        return Terms(
            inner=decayed if self.inner else same_loss,
            penalty=lambda learner: self.weight * half_square(learner.parameters()),
        )


@dataclass(frozen=True)
class Dropout:
    """Drop features behind the body, where every head and every metric reads them (Srivastava et al. 2014)."""

    p: float

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise UserError(f"reg.dropout.p={self.p}; a share from 0 up to but not including 1 is expected")

    def terms(self) -> Terms:
        return Terms(drop=nn.Dropout(self.p))


@dataclass(frozen=True)
class Penalised:
    """An objective with the regularisers' penalty on its loss."""

    objective: Objective
    penalty: Callable[[Learner], Tensor | None]

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        result, value = self.objective(learner, episode, progress), self.penalty(learner)
        return result if value is None else result._replace(loss=result.loss + value)


def combine(regularisers: list[Regulariser]) -> Terms:
    """Return what all of them change together, applied in the order given."""
    terms = [r.terms() for r in regularisers]
    drops = [t.drop for t in terms if t.drop is not None]

    def penalty(learner: Learner) -> Tensor | None:
        values = [v for v in (t.penalty(learner) for t in terms) if v is not None]
        return torch.stack(values).sum() if values else None

    return Terms(
        inner=chain([t.inner for t in terms if t.inner is not same_loss]),
        outer=chain([t.outer for t in terms if t.outer is not same_loss]),
        penalty=penalty,
        drop=nn.Sequential(*drops),
    )


def chain(wraps: list[Callable[[Loss], Loss]]) -> Callable[[Loss], Loss]:
    """Return the wraps one after another; same_loss where there are none."""
    if not wraps:
        return same_loss
    return lambda loss: reduce(lambda inside, wrap: wrap(inside), wraps, loss)
