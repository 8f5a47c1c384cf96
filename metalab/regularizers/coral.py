"""Deep CORAL: Sun & Saenko 2016: the features of source and target are to have the same covariance."""

from dataclasses import dataclass

from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import Learner
from metalab.regularizers.base import Hooks
from metalab.regularizers.target_features import target_hooks


@dataclass(frozen=True)
class CORAL:
    """Add weight x |C_S - C_T|_F^2 / 4 D^2, the CORAL loss of features [N,D], to the outer loss (eq. 1).

    The paper takes the last layer's outputs, here the features that head and metrics read. The means of the domains are
    not compared. See target_features.py for joint.
    """

    weight: float
    joint: bool

    def __post_init__(self) -> None:
        self.hooks()

    def hooks(self) -> Hooks:
        def term(learner: Learner, source: Tensor, target: Tensor, progress: Tensor) -> Tensor:
            return coral_loss(source, target)

        return target_hooks("coral", term, self.weight, self.joint)


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    """Return |C_S - C_T|_F^2 / 4 D^2, a scalar, of features [N,D] and [M,D]; UserError where a domain has one image."""
    images, features = min(source.shape[0], target.shape[0]), source.shape[1]
    if images < 2:
        raise UserError("reg.coral: one image has no covariance, 2 or more are needed; give more queries")
    return (covariance(source) - covariance(target)).square().sum() / (4 * features**2)


def covariance(x: Tensor) -> Tensor:
    """Return the unbiased covariance [D,D] of x [N,D] (eqs. 2 and 3)."""
    centred = x - x.mean(0)
    return centred.T @ centred / (x.shape[0] - 1)
