"""Square attack, a black box: Andriushchenko, Croce, Flammarion, Hein 2020, algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metalab.attacks.base import Iterate, Norm, Reduction, check_attack, no_reduction, per_image
from metalab.attacks.losses import chosen
from metalab.attacks.square_l2 import moved, tiled
from metalab.attacks.square_windows import inside, signs, window
from metalab.core.errors import UserError
from metalab.core.interfaces import Model

FALLS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: where the share of the image halves


@dataclass(frozen=True)
class Square:
    """Change random squares of the image and keep what lowers the margin; it reads the logits and no gradient.

    linf: squares at +eps or -eps (algorithm 2); l2: squares into which the change of others is moved (algorithm 3).
    queries: how often the model is asked. share: part of the image that the first square covers, above 0, at most 1.
    eps in [0, 1] units.
    """

    eps: float
    norm: Norm
    queries: int
    share: float

    def __post_init__(self) -> None:
        check_attack(self, self.eps, None, queries=self.queries)
        if not 0 < self.share <= 1:
            raise UserError(f"Square has share={self.share:g}; a part of the image above 0 and at most 1 is expected")

    @property
    def steps(self) -> int:
        return self.queries

    def iterates(self, model: Model, x: Tensor, y: Tensor, reduction: Reduction = no_reduction) -> Iterator[Iterate]:
        margin = reduction(chosen("margin", y))
        begin, change = (striped, painted) if self.norm == "linf" else (tiled, moved)
        best = begin(x, self.eps)
        logits = model(best)
        yield Iterate(best, logits, None)
        height = margin(logits)
        for query in range(1, self.queries):
            new = change(x, best, self.eps, self._side(x, query))
            logits = model(new)
            yield Iterate(new, logits, None)
            reached = margin(logits)
            better = reached > height
            height = torch.where(better, reached, height)
            best = torch.where(per_image(better, x), new, best)
        yield Iterate(best, None, None)

    def _side(self, x: Tensor, query: int) -> int:
        """Return the side of the square that is changed before a query, in pixels; under l2 it has a middle one."""
        high, wide = x.shape[-2:]
        halvings = sum(10_000 * (query - 1) / self.queries > fall for fall in FALLS)
        side = max(1, round((self.share / 2**halvings * high * wide) ** 0.5))
        return min(side if self.norm == "linf" else max(side, 3) | 1, high, wide)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        *_, last = self.iterates(model, x, y)
        return last.x


def striped(x: Tensor, eps: float) -> Tensor:
    """Return where the search begins: one sign a column and channel (sec. 3.3)."""
    return (x + eps * signs(x[:, :, :1, :])).clamp(0.0, 1.0)


def painted(x: Tensor, best: Tensor, eps: float, side: int) -> Tensor:
    """Return best with one square of the images x at +eps or -eps a channel."""
    paint = eps * signs(x[:, :, :1, :1])
    return torch.where(inside(window(x, side), side), (x + paint).clamp(0.0, 1.0), best)
