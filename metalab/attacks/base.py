"""What attacks share: how one is used, what it tries, the ball it stays in and the gradient it climbs.

Images are [N,C,H,W] in [0,1], eps and step in the same units. Everything works under torch.func.vmap.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from metalab.attacks.zero_gradients import record
from metalab.core.errors import UserError
from metalab.core.interfaces import Model

Norm = Literal["linf", "l2"]
AttackLoss = Callable[[Tensor], Tensor]  # logits [N,K] -> what the attack makes large [N]
Reduction = Callable[[AttackLoss], AttackLoss]  # a value of each row of logits -> one of each attacked image


class Iterate(NamedTuple):
    """One batch of images that an attack came to."""

    x: Tensor  # [N,C,H,W]
    logits: Tensor | None  # [N,K] where the attack knows them already; None: a climb has ended here
    dead: Tensor | None  # bool [N], the gradient there is exactly zero; None: it was not needed


class Attack(Protocol):
    @property
    def steps(self) -> int: ...  # of one climb, as reports name it

    def iterates(self, model: Model, x: Tensor, y: Tensor, reduction: Reduction = ...) -> Iterator[Iterate]:
        """Yield every batch of images that is tried; the model is wrong about one that any of them fools.

        reduction: `no_reduction`, where the logits are those of the images x themselves with their labels y;
        `mean_over_queries`, where x is a support, and the logits and labels are those of the queries of the task that
        is adapted to it.
        """
        ...

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Return the images that are trained on: where the attack ends."""
        ...


def no_reduction(value: AttackLoss) -> AttackLoss:
    """Return the value as it is: each image has its own."""
    return value


def mean_over_queries(images: int) -> Reduction:
    """Return what gives all of so many images the mean value: a support is one thing that is tried as a whole."""
    return lambda value: lambda logits: value(logits).mean().expand(images)


def check_attack(where: object, eps: float, step: float | None, **at_least_one: int) -> None:
    """Raise UserError for a size below 0 or a count below 1; sizes are told in 255ths, as they are typed."""
    name = type(where).__name__
    if not eps >= 0 or eps > 255:
        raise UserError(f"{name} has eps={255 * eps:g}; a size in 255ths of the image's range is expected, 0 or more")
    if step is not None and not step > 0:
        raise UserError(f"{name} has step={255 * step:g}; a size in 255ths above 0 is expected, or null")
    for key, count in at_least_one.items():
        if count < 1:
            raise UserError(f"{name} has {key}={count}; a whole number, 1 or more, is expected")


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Return values [N] in a shape that multiplies images [N,C,H,W]."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def l2_norm(delta: Tensor) -> Tensor:
    """Return the L2 norm [N] of each image, without torch's gradient at 0, which nobody needs here."""
    return delta.square().flatten(1).sum(1).sqrt()


def project(x: Tensor, moved: Tensor, eps: float, norm: Norm) -> Tensor:
    """Return the moved images brought back to at most eps from x, and into [0, 1]."""
    delta = moved - x
    if norm == "linf":
        delta = delta.clamp(-eps, eps)
    else:
        delta = delta * per_image((eps / l2_norm(delta).clamp(min=1e-12)).clamp(max=1.0), x)
    return (x + delta).clamp(0.0, 1.0)


def steepest_direction(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the steepest step of size 1: the sign (Linf), or the gradient at length 1 (L2); 0 where it is 0."""
    if norm == "linf":
        return gradient.sign()
    size = gradient.abs().flatten(1).amax(1).clamp(min=1e-30)  # first, so that the square of a tiny one is not 0
    scaled = gradient / per_image(size, gradient)
    return scaled / per_image(l2_norm(scaled).clamp(min=1e-12), gradient)


def random_in_ball(x: Tensor, eps: float | Tensor, norm: Norm) -> Tensor:
    """Return x moved to a uniformly drawn point of the ball, and into [0, 1]; eps: one size, or [N,1,1,1]."""
    if norm == "linf":
        return (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0.0, 1.0)
    radius = torch.rand_like(x[:, :1, :1, :1]) ** (1 / x[0].numel())
    return (x + eps * radius * steepest_direction(torch.randn_like(x), norm)).clamp(0.0, 1.0)


def gradient(model: Model, x: Tensor, value: AttackLoss) -> tuple[Tensor, Iterate]:
    """Return the gradient of value with respect to the pixels, and x as a try.

    The weights are constants here: no outer graph comes in. Task by task autograd does it, which costs a tenth less
    than torch.func.grad; that is for the inside of its own transforms, where autograd is refused.
    """

    def total(at: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(at)
        return value(logits).sum(), logits

    try:
        at = x.detach().requires_grad_()
    except RuntimeError:  # inside of vmap or torch.func.grad
        with torch.no_grad():
            slope, logits = torch.func.grad(total, has_aux=True)(x)
    else:
        with torch.enable_grad():
            height, logits = total(at)
        found = torch.autograd.grad(height, at, allow_unused=True) if height.requires_grad else (None,)
        slope, logits = torch.zeros_like(x) if found[0] is None else found[0], logits.detach()
    slope = slope.nan_to_num(nan=0.0)  # what many inner steps may end at; a step along it would leave no image
    dead = (slope == 0).flatten(1).all(1)
    record(dead)
    return slope, Iterate(x, logits, dead)
