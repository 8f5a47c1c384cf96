"""The fast adaptive boundary attack, towards one class at a time (FAB-T): Croce & Hein 2020, algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metalab.attacks.base import (
    Iterate,
    Norm,
    Reduction,
    check_attack,
    gradient,
    l2_norm,
    no_reduction,
    per_image,
    project,
    random_in_ball,
)
from metalab.attacks.losses import targeted, targets
from metalab.core.interfaces import Model

MOST_BACK, BEYOND, RETREAT = 0.1, 1.05, 0.9  # alpha_max, eta and beta of the paper


@dataclass(frozen=True)
class FAB:
    """Walk along the boundary to each of the likeliest wrong classes, and keep the nearest image that is wrong.

    It looks for the smallest change, whatever eps is; an image counts as fooled where that is within eps. targets: at
    most way - 1 are tried. The first of the restarts begins at the image. eps in [0, 1] units.
    """

    eps: float
    norm: Norm
    steps: int
    restarts: int
    targets: int

    def __post_init__(self) -> None:
        check_attack(self, self.eps, None, steps=self.steps, restarts=self.restarts, targets=self.targets)

    def iterates(self, model: Model, x: Tensor, y: Tensor, reduction: Reduction = no_reduction) -> Iterator[Iterate]:
        assert reduction is no_reduction, "refused before there is any work: evaluation/robustness.py"
        clean = model(x)
        nearest, distance = x, torch.where(clean.argmax(1) == y, torch.inf, 0.0).to(x.dtype)
        for restart in range(self.restarts):
            for target in targets(clean, y, self.targets):
                lead = targeted("margin", y, target)
                radius = per_image(distance.clamp(max=self.eps), x) / 2
                at = random_in_ball(x, radius, self.norm) if restart else x
                for _ in range(self.steps):
                    slope, tried = gradient(model, at, lead)
                    yield Iterate(x, clean, tried.dead)  # where it walks may be outside the ball, so it is not tried
                    assert tried.logits is not None
                    at = self._step(x, at, slope, lead(tried.logits))
                    wrong, far = model(at).argmax(1) != y, self._length(at - x)
                    nearer = wrong & (far < distance)
                    nearest = torch.where(per_image(nearer, x), at, nearest)
                    distance = torch.where(nearer, far, distance)
                    at = torch.where(per_image(wrong, x), x + RETREAT * (at - x), at)
        yield Iterate(project(x, nearest, self.eps, self.norm), None, None)

    def _step(self, x: Tensor, at: Tensor, slope: Tensor, lead: Tensor) -> Tensor:
        """Return a point beyond the linearised boundary, drawn a little towards the image."""
        here = onto_boundary(at, slope, lead, self.norm)
        reach = lead + (slope * (x - at)).flatten(1).sum(1)  # what the linear model says of the image itself
        there = onto_boundary(x, slope, reach, self.norm)
        from_here, from_there = self._length(here).clamp(min=1e-8), self._length(there).clamp(min=1e-8)
        back = per_image((from_here / (from_here + from_there)).clamp(max=MOST_BACK), x)
        return ((1 - back) * (at + BEYOND * here) + back * (x + BEYOND * there)).clamp(0.0, 1.0)

    def _length(self, delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).amax(1) if self.norm == "linf" else l2_norm(delta)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        *_, last = self.iterates(model, x, y)
        return last.x


def onto_boundary(x: Tensor, slope: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """Return the shortest change of images x [N,C,H,W] within [0, 1] that brings value + slope . change to 0.

    value: [N]. Where no image in [0, 1] reaches 0, all pixels that help go to their ends. The change grows with one
    number an image until each pixel stops at its end, so that number is found by sorting where they stop.
    """
    size = slope.abs().flatten(1).amax(1).clamp(min=1e-30)
    weight, want = slope.abs() / per_image(size, slope), value.abs() / size
    way = -slope.sign() * per_image(value.sign(), slope)
    room = torch.where(way > 0, 1 - x, x)
    pace = torch.ones_like(weight) if norm == "linf" else weight  # how fast a pixel moves
    stop = torch.where(weight > 0, room / pace.clamp(min=1e-30), 0.0).flatten(1)
    stop, order = stop.sort(1)
    gain = (weight * pace).flatten(1).gather(1, order)
    whole = (gain * stop).cumsum(1)  # of the pixels that have stopped
    moving = gain.flip(1).cumsum(1).flip(1)  # of those from here on
    passed = (whole + stop * (moving - gain) < want[:, None]).sum(1, keepdim=True).clamp(max=stop.shape[1] - 1)
    before = (whole - gain * stop).gather(1, passed)
    level = (want[:, None] - before) / moving.gather(1, passed).clamp(min=1e-30)
    return way * torch.minimum(per_image(level, x) * pace, room)
