"""Inner steps that weigh the classes of an unequal support alike: Cui, Jia, Lin, Song, Belongie 2019."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from metalab.algorithms.components.distances import members
from metalab.core.errors import UserError
from metalab.regularizers.base import Hooks, identity_loss
from metalab.regularizers.output_penalties import plus


@dataclass(frozen=True)
class ClassBalanced:
    """Weight each image in the loss of inner steps by its class's effective number of images (eq. 2, 3 and 5 there).

    The weight is (1 - beta) / (1 - beta^n) of a class with n images, scaled to a mean of 1 over the images. beta: from
    0, all images alike, to 1, the inverse of the number: each class counts as much as any other.
    """

    beta: float

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise UserError(f"reg.class_balanced.beta={self.beta:g}: expected 0 (all images alike) to 1 (all classes)")

    def hooks(self) -> Hooks:
        inner = plus(self._excess) if self.beta else identity_loss
        return Hooks(inner=inner, inner_off="beta=0", smoothed=bool(self.beta), unequal="class_balanced")

    def _excess(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the weighted cross-entropy of logits [N,K] and labels [N] less the one of equal weights."""
        member = members(y, logits.shape[1]).to(logits.dtype)
        count = member.sum(0)  # [K]
        effective = count if self.beta == 1 else (1 - self.beta**count) / (1 - self.beta)
        weight = member @ (1 / effective.clamp(min=1))  # [N]; the effective number of one image is 1
        return ((weight / weight.mean() - 1) * F.cross_entropy(logits, y, reduction="none")).mean()
