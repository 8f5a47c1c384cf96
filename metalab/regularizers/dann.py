"""DANN, domain-adversarial training: Ganin, Ustinova, Ajakan, Germain, Larochelle et al. 2016."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.core.errors import UserError
from metalab.core.interfaces import Learner
from metalab.regularizers.base import Hooks
from metalab.regularizers.target_features import target_hooks

PART = "reg_domain"  # the domain classifier's name in the net


@dataclass(frozen=True)
class DANN:
    """Learn a classifier of the domain, and features that mislead it: its gradient is reversed, times lambda (eq. 9).

    Added is weight x (the classifier's mean loss on the source + that on the target), which the classifier descends and
    the body climbs, lambda times. lam: lambda; null: 2 / (1 + exp(-gamma p)) - 1, with p the share of training that is
    done (sec. 5.2.2: gamma 10). hidden: units of the classifier's one hidden layer (100 for MNIST's net there). See
    target_features.py for joint.
    """

    weight: float
    lam: float | None
    gamma: float
    hidden: int
    joint: bool

    def __post_init__(self) -> None:
        if self.lam is not None and self.lam < 0:
            raise UserError(
                f"reg.dann.lam={self.lam:g}: expected 0 or more, as the gradient is reversed already, or null for the "
                "paper's schedule"
            )
        if self.gamma <= 0:
            raise UserError(f"reg.dann.gamma={self.gamma:g}: expected a number above 0, as 10")
        if self.hidden < 1:
            raise UserError(f"reg.dann.hidden={self.hidden}: expected 1 unit or more, as 100")
        self.hooks()

    def hooks(self) -> Hooks:
        def term(learner: Learner, source: Tensor, target: Tensor, progress: Tensor) -> Tensor:
            lam = reversal_strength(progress, self.gamma) if self.lam is None else self.lam
            logits = learner.part(PART, reverse_gradient(torch.cat([source, target]), lam))
            return domain_loss(logits, source.shape[0])

        def parts(features: int) -> dict[str, nn.Module]:
            return {PART: domain_classifier(features, self.hidden)} if self.weight else {}

        return target_hooks("dann", term, self.weight, self.joint)._replace(parts=parts)


def reversal_strength(progress: Tensor, gamma: float) -> Tensor:
    """Return lambda [] after this share of training, 0 at first and nearly 1 at the end (sec. 5.2.2)."""
    return 2 / (1 + torch.exp(-gamma * progress)) - 1


def reverse_gradient(x: Tensor, lam: Tensor | float) -> Tensor:
    """Return x, whose gradient is -lam times what it would be (sec. 4.2), without a Function: vmap takes it."""
    return x.detach() + lam * (x.detach() - x)


def domain_loss(logits: Tensor, sources: int) -> Tensor:
    """Return the mean loss on the first logits [:sources], of source images, plus that on the others, the target's."""
    source, target = logits.flatten()[:sources], logits.flatten()[sources:]
    return F.softplus(source).mean() + F.softplus(-target).mean()  # -log sigmoid: 1 is the target


def domain_classifier(features: int, hidden: int) -> nn.Module:
    """Return a net from features [N,D] to the logit [N,1] of being the target's."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1))
