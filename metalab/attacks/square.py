"""Square attack, a black box: Andriushchenko, Croce, Flammarion, Hein 2020, algorithms 1 and 2 (Linf)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metalab.attacks.losses import margin
from metalab.attacks.steps import Norm, Try, check, per_image
from metalab.errors import UserError
from metalab.interfaces import Model

FALLS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: where the share of the image halves


@dataclass(frozen=True)
class Square:
    """Paint random squares at +eps or -eps and keep what lowers the margin; it reads the logits and no gradient.

    queries: how often the model is asked. share: part of the image that the first square covers, above 0, at most 1.
    eps in [0, 1] units.
    """

    eps: float
    norm: Norm
    queries: int
    share: float

    def __post_init__(self) -> None:
        check(self, self.eps, None, queries=self.queries)
        if self.norm != "linf":
            raise UserError("the square attack is here for linf alone; type attack.norm=linf, or leave it out")
        if not 0 < self.share <= 1:
            raise UserError(f"Square has share={self.share:g}; a part of the image above 0 and at most 1 is expected")

    @property
    def steps(self) -> int:
        return self.queries

    def tries(self, model: Model, x: Tensor, y: Tensor) -> Iterator[Try]:
        stripes = torch.rand_like(x[:, :, :1, :])  # one sign a column and channel (sec. 3.3)
        best = (x + self.eps * _sign(stripes)).clamp(0.0, 1.0)
        logits = model(best)
        yield Try(best, logits, None)
        height = margin(logits, y)
        for query in range(1, self.queries):
            paint = self.eps * _sign(torch.rand_like(x[:, :, :1, :1]))
            inside = self._square(x, query)
            new = torch.where(inside, (x + paint).clamp(0.0, 1.0), best)
            logits = model(new)
            yield Try(new, logits, None)
            reached = margin(logits, y)
            better = reached > height
            height = torch.where(better, reached, height)
            best = torch.where(per_image(better, x), new, best)
        yield Try(best, None, None)

    def _square(self, x: Tensor, query: int) -> Tensor:
        """Return bool [N,1,H,W], a square at a random place of each image."""
        high, wide = x.shape[-2:]
        halvings = sum(10_000 * query / self.queries > fall for fall in FALLS)
        side = max(1, min(round((self.share / 2**halvings * high * wide) ** 0.5), high, wide))

        def along(length: int, dim: int) -> Tensor:
            first = (torch.rand_like(x[:, :1, :1, :1]) * (length - side + 1)).floor()
            place = torch.arange(length, device=x.device).reshape([-1 if d == dim else 1 for d in range(4)])
            return (place >= first) & (place < first + side)

        return along(high, 2) & along(wide, 3)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        *_, last = self.tries(model, x, y)
        return last.x


def _sign(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0).to(uniform.dtype)
