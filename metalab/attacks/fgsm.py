"""The fast gradient sign method: Goodfellow, Shlens, Szegedy 2015; from a random start: Wong, Rice, Kolter 2020."""

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
from metalab.attacks.losses import Loss, chosen
from metalab.core.interfaces import Model


@dataclass(frozen=True)
class FGSM:
    """Take one step of `step` up the loss, from the image or from a random point of the ball.

    step None is eps, and 1.25 eps from a random start (Wong et al. 2020, sec. 4.1). eps and step in [0, 1] units.
    """

    eps: float
    norm: Norm
    step: float | None
    random_start: bool
    loss: Loss

    def __post_init__(self) -> None:
        check_attack(self, self.eps, self.step, steps=self.steps)

    @property
    def steps(self) -> int:
        return 1

    def ascend(self, model: Model, x: Tensor, value: AttackLoss) -> Iterator[Iterate]:
        """Yield where it starts and where it ends."""
        size = self.step or (1.25 if self.random_start else 1.0) * self.eps
        start = random_in_ball(x, self.eps, self.norm) if self.random_start else x
        slope, tried = gradient(model, start, value)
        yield tried
        yield Iterate(project(x, start + size * steepest_direction(slope, self.norm), self.eps, self.norm), None, None)

    def iterates(self, model: Model, x: Tensor, y: Tensor, reduction: Reduction = no_reduction) -> Iterator[Iterate]:
        return self.ascend(model, x, reduction(chosen(self.loss, y)))

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        *_, last = self.iterates(model, x, y)
        return last.x
