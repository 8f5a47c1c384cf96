"""Losses of pairs of images, of one class or of two."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.core.errors import UserError

MARGINS = {"contrastive": (0.0, torch.inf, 5.0), "cosine": (-1.0, 1.0, 0.5)}  # above, below, where None is given


@dataclass(frozen=True)
class PairLoss:
    """The mean loss of all pairs, from scores [N,M], high for one class, and which pairs are of one, bool [N,M].

    contrastive: 1/2N sum [y d^2 + (1 - y) max(0, margin - d)^2] with d = -score, y = 1 for one class (Hadsell et al.
    2006, eq. 4, has y the other way round). cosine: 1 - score, and max(0, score - margin) for two classes.
    verification: cross-entropy of sigmoid(score) (Koch et al. 2015, sec. 3.2). balanced: the pairs of one class weigh
    as much as those of two together.
    """

    kind: Literal["contrastive", "cosine", "verification"]
    margin: float | None
    balanced: bool

    def __post_init__(self) -> None:
        above, below, usual = MARGINS.get(self.kind, (-torch.inf, torch.inf, 0.0))
        if self.margin is not None and not above < self.margin < below:
            raise UserError(
                f"algo.margin={self.margin:g}: algo.loss={self.kind} takes a number above {above:g} and below "
                f"{below:g}, as algo.margin={usual:g}"
            )

    def __call__(self, scores: Tensor, same: Tensor) -> Tensor:
        y = same.to(scores.dtype)
        margin = MARGINS[self.kind][2] if self.margin is None and self.kind in MARGINS else self.margin or 0.0
        if self.kind == "contrastive":
            loss = (y * scores.square() + (1 - y) * (margin + scores).relu().square()) / 2
        elif self.kind == "cosine":
            loss = y * (1 - scores) + (1 - y) * (scores - margin).relu()
        else:
            loss = F.binary_cross_entropy_with_logits(scores, y, reduction="none")
        if not self.balanced:
            return loss.mean()
        share = y.mean()
        return (loss * (y / share + (1 - y) / (1 - share))).mean() / 2
