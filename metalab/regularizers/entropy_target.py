"""Entropy minimisation on unlabelled images: Grandvalet & Bengio 2005."""

from dataclasses import dataclass

from torch import Tensor

from metalab.core.interfaces import Learner
from metalab.regularizers.base import Hooks
from metalab.regularizers.output_penalties import negative_entropy
from metalab.regularizers.target_features import target_hooks


@dataclass(frozen=True)
class EntropyTarget:
    """Add weight x the mean entropy of the predictions on target images to the loss, so that they become sure.

    Of a plain classifier of all training classes alone. In an episode it is refused: most target images are of none of
    its few classes, and to be sure of one for them is wrong. See target_features.py for joint.
    """

    weight: float
    joint: bool

    def __post_init__(self) -> None:
        self.hooks()

    def hooks(self) -> Hooks:
        def term(learner: Learner, source: Tensor, target: Tensor, progress: Tensor) -> Tensor:
            logits = learner.part("head", target)
            return -negative_entropy(logits, logits)

        return target_hooks("entropy_target", term, self.weight, self.joint, predicts=True)
