"""What attacks make large: functions of logits [N,K] and labels [N], one value an image."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.attacks.base import AttackLoss

Loss = Literal["cross_entropy", "margin", "dlr"]


def chosen(loss: Loss, y: Tensor) -> AttackLoss:
    """Return a loss of the labels y; dlr is the margin below three classes, for which it is not defined."""
    functions = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
    return lambda logits: functions[loss](logits, y)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy [N]; its gradient is exactly 0 where the right logit leads by 104 in float32."""
    return F.cross_entropy(logits, y, reduction="none")


def is_label(logits: Tensor, y: Tensor) -> Tensor:
    """Return bool [N,K], the class of each image."""
    return y[:, None] == torch.arange(logits.shape[1], device=y.device)


def at(logits: Tensor, y: Tensor) -> Tensor:
    """Return the logit [N] of each image's class."""
    return logits.gather(1, y[:, None])[:, 0]


def best_other(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest logit [N] of a wrong class."""
    return logits.masked_fill(is_label(logits, y), -torch.inf).amax(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return max of the wrong logits minus the right one (Carlini & Wagner 2017, f6); above 0 is an error."""
    return best_other(logits, y) - at(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference-of-logits ratio (Croce & Hein 2020, eq. 6): the margin over the first minus the third."""
    if logits.shape[1] < 3:
        return margin(logits, y)
    ranked = logits.sort(1, descending=True).values
    return margin(logits, y) / (ranked[:, 0] - ranked[:, 2] + 1e-12)


def targeted(loss: Loss, y: Tensor, target: Tensor) -> AttackLoss:
    """Return a loss whose rise makes images of class y look like the target class.

    cross_entropy: minus the target's; margin: target minus right logit; dlr: that over the first minus the mean of the
    third and the fourth logit (Croce & Hein 2020, eq. 7), the margin below four classes.
    """

    def value(logits: Tensor) -> Tensor:
        if loss == "cross_entropy":
            return -cross_entropy(logits, target)
        lead = at(logits, target) - at(logits, y)
        if loss == "margin" or logits.shape[1] < 4:
            return lead
        ranked = logits.sort(1, descending=True).values
        return lead / (ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2 + 1e-12)

    return value


def targets(logits: Tensor, y: Tensor, most: int) -> list[Tensor]:
    """Return the likeliest wrong classes, each [N], way - 1 of them or `most`."""
    count = min(most, logits.shape[1] - 1)
    ranked = logits.masked_fill(is_label(logits, y), -torch.inf).topk(count, dim=1).indices
    return list(ranked.unbind(1))


def divergence(clean: Tensor) -> AttackLoss:
    """Return KL(clean || attacked) of the predictions, what TRADES makes large (Zhang et al. 2019, eq. 5)."""
    reference = clean.log_softmax(1)
    return lambda logits: (reference.exp() * (reference - logits.log_softmax(1))).sum(1)
