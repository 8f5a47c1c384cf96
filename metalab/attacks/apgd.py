"""Auto-PGD: Croce & Hein 2020, algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metalab.attacks.base import (
    AttackLoss,
    Iterate,
    Norm,
    Reduction,
    check_attack,
    gradient,
    no_reduction,
    per_image,
    project,
    random_in_ball,
    steepest_direction,
)
from metalab.attacks.losses import Loss, chosen, targeted, targets
from metalab.core.interfaces import Model

MOMENTUM, RISES = 0.75, 0.75  # alpha and rho of the paper


def checkpoints(steps: int) -> list[int]:
    """Return the steps after which the step size may be halved: p(j+1) = p(j) + max(p(j) - p(j-1) - 0.03, 0.06)."""
    shares = [0, 22]  # hundredths, as whole numbers: 0.57 * 100 is not 57
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    return sorted({-(-share * steps // 100) for share in shares[1:] if share < 100})


@dataclass(frozen=True)
class APGD:
    """Climb with momentum from a random start, and halve an image's step size where it stops rising (2 eps at first).

    targets 0: away from the image's class; else towards the likeliest wrong classes, at most way - 1, in turn.
    eps in [0, 1] units.
    """

    eps: float
    norm: Norm
    steps: int
    restarts: int
    loss: Loss
    targets: int

    def __post_init__(self) -> None:
        check_attack(self, self.eps, None, steps=self.steps, restarts=self.restarts, targets=self.targets + 1)

    def ascend(self, model: Model, x: Tensor, value: AttackLoss) -> Iterator[Iterate]:
        """Yield every point that the images come to; the last has the largest value of each image."""
        slope, tried = gradient(model, random_in_ball(x, self.eps, self.norm), value)
        yield tried
        before, now = tried.x, self._moved(x, tried.x, slope, x.new_full((len(x),), 2 * self.eps))
        best, height, best_slope = tried.x, value(_known(tried)), slope
        size, last = torch.full_like(height, 2 * self.eps), height
        rises, base, halved, since = torch.zeros_like(height), height, torch.zeros_like(height).bool(), 0
        checks = checkpoints(self.steps)
        for step in range(1, self.steps):
            slope, tried = gradient(model, now, value)
            yield tried
            reached = value(_known(tried))
            rises, last, higher = rises + (reached > last), reached, reached > height
            best, best_slope = (torch.where(per_image(higher, x), a, b) for a, b in ((now, best), (slope, best_slope)))
            height = torch.where(higher, reached, height)
            if step in checks:
                halve = (rises < RISES * (step - since)) | (~halved & (height == base))
                size = torch.where(halve, size / 2, size)
                now, slope = (torch.where(per_image(halve, x), a, b) for a, b in ((best, now), (best_slope, slope)))
                rises, base, halved, since = torch.zeros_like(rises), height, halve, step
            ahead = self._moved(x, now, slope, size)
            ahead = project(x, now + MOMENTUM * (ahead - now) + (1 - MOMENTUM) * (now - before), self.eps, self.norm)
            before, now = now, ahead
        yield Iterate(now, None, None)
        yield Iterate(best, None, None)

    def _moved(self, x: Tensor, at: Tensor, slope: Tensor, size: Tensor) -> Tensor:
        return project(x, at + per_image(size, x) * steepest_direction(slope, self.norm), self.eps, self.norm)

    def iterates(self, model: Model, x: Tensor, y: Tensor, reduction: Reduction = no_reduction) -> Iterator[Iterate]:
        values = [chosen(self.loss, y)]
        if self.targets:
            values = [targeted(self.loss, y, target) for target in targets(model(x), y, self.targets)]
        for _ in range(self.restarts):
            for value in values:
                yield from self.ascend(model, x, reduction(value))

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        *_, last = self.iterates(model, x, y)
        return last.x


def _known(tried: Iterate) -> Tensor:
    assert tried.logits is not None
    return tried.logits
