"""Pseudo-labels: Lee 2013: target images are learned with the labels that the net is surest of."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import Learner
from metalab.regularizers.base import Hooks
from metalab.regularizers.target_features import target_hooks


@dataclass(frozen=True)
class PseudoLabels:
    """Add weight x ramp x the cross-entropy of target images with the labels now predicted for them (eq. 15).

    Only images predicted with a probability of `threshold` or more count, the others as 0 in the mean; 0: all, as in
    the paper. The ramp rises from 0 at the share ramp_start of training to 1 at ramp_end (eq. 16: T1 and T2). Of a
    plain classifier alone, as EntropyTarget. See target_features.py for joint.
    """

    weight: float
    threshold: float
    ramp_start: float
    ramp_end: float
    joint: bool

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"reg.pseudo_labels.threshold={self.threshold:g}: expected a probability, 0 to 1")
        if not 0 <= self.ramp_start <= self.ramp_end <= 1:
            raise UserError(
                f"reg.pseudo_labels.ramp_start={self.ramp_start:g}, ramp_end={self.ramp_end:g}: expected rising shares "
                "of training, 0 to 1"
            )
        self.hooks()

    def hooks(self) -> Hooks:
        def term(learner: Learner, source: Tensor, target: Tensor, progress: Tensor) -> Tensor:
            loss = pseudo_label_loss(learner.part("head", target), self.threshold)
            return ramp(progress, self.ramp_start, self.ramp_end) * loss

        return target_hooks("pseudo_labels", term, self.weight, self.joint, predicts=True)


def pseudo_label_loss(logits: Tensor, threshold: float) -> Tensor:
    """Return the mean over N of the cross-entropy of logits [N,K] with their own classes, 0 for unsure ones."""
    sure, label = logits.detach().softmax(1).max(1)
    each = F.cross_entropy(logits, label, reduction="none")
    return (each * (sure >= threshold)).mean()


def ramp(progress: Tensor, start: float, end: float) -> Tensor:
    """Return 0 up to the share `start` of training, 1 from `end` on, and a straight line between."""
    if start == end:
        return (progress >= end).to(progress.dtype)
    return ((progress - start) / (end - start)).clamp(0.0, 1.0)
