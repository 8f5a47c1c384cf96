"""Projected gradient descent: Madry et al. 2018, sec. 2.1."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from metalab.attacks.base import (
    AttackLoss,
    Iterate,
    Norm,
    Reduction,
    check_attack,
    gradient,
    no_reduction,
    project,
    random_in_ball,
    steepest_direction,
)
from metalab.attacks.losses import Loss, chosen, targeted, targets
from metalab.core.interfaces import Model


@dataclass(frozen=True)
class PGD:
    """Take `steps` steps up the loss, each brought back into the ball; step None is a quarter of eps.

    restarts: how often it begins anew, each from another random point. eps and step in [0, 1] units.
    """

    eps: float
    norm: Norm
    steps: int
    step: float | None
    random_start: bool
    restarts: int
    loss: Loss

    def __post_init__(self) -> None:
        check_attack(self, self.eps, self.step, steps=self.steps, restarts=self.restarts)

    def ascend(self, model: Model, x: Tensor, value: AttackLoss) -> Iterator[Iterate]:
        """Yield where each restart begins and every point it comes to."""
        size = self.eps / 4 if self.step is None else self.step
        for _ in range(self.restarts):
            at = random_in_ball(x, self.eps, self.norm) if self.random_start else x
            for _ in range(self.steps):
                slope, tried = gradient(model, at, value)
                yield tried
                at = project(x, at + size * steepest_direction(slope, self.norm), self.eps, self.norm)
            yield Iterate(at, None, None)

    def iterates(self, model: Model, x: Tensor, y: Tensor, reduction: Reduction = no_reduction) -> Iterator[Iterate]:
        return self.ascend(model, x, reduction(chosen(self.loss, y)))

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        *_, last = self.iterates(model, x, y)
        return last.x


@dataclass(frozen=True)
class TargetedPGD:
    """Climb towards each of the likeliest wrong classes in turn, `targets` of them, at most way - 1 (9 in the papers).

    Targets are ranked by the clean logits. All else is as in PGD.
    """

    eps: float
    norm: Norm
    steps: int
    step: float | None
    random_start: bool
    restarts: int
    loss: Loss
    targets: int

    def __post_init__(self) -> None:
        check_attack(self, self.eps, self.step, steps=self.steps, restarts=self.restarts, targets=self.targets)

    def iterates(self, model: Model, x: Tensor, y: Tensor, reduction: Reduction = no_reduction) -> Iterator[Iterate]:
        plain = PGD(self.eps, self.norm, self.steps, self.step, self.random_start, self.restarts, self.loss)
        for target in targets(model(x), y, self.targets):
            yield from plain.ascend(model, x, reduction(targeted(self.loss, y, target)))

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        *_, last = self.iterates(model, x, y)
        return last.x
