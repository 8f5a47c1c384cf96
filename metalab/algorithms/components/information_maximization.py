"""Classes that are told apart by the support and by how informative the queries' predictions are (Boudiaf et al. 2020).

The classifier is a weight a class w_k, first the class means, with p_k(z) proportional to exp(-t/2 |w_k - z|^2), eq. 1.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from metalab.algorithms.components.heads import full_precision
from metalab.algorithms.components.inner_optimizers import InnerOptimizer

SMALL = 1e-12  # a share below which its logarithm goes no further


class LossWeights(NamedTuple):
    """How much each term of the loss counts; theirs (tim.py:11): 0.1, 1 and 0.1."""

    cross_entropy: float  # of the support
    marginal: float  # entropy of the mean prediction of the queries, which is to be high
    conditional: float  # mean entropy of the predictions, which is to be low


class Task(NamedTuple):
    """The features of an episode."""

    known: Tensor  # [M,D] of the support
    onto: Tensor  # [M,K], 1 for the class of each
    asked: Tensor  # [N,D] of the queries


def class_logits(weights: Tensor, features: Tensor, temperature: float) -> Tensor:
    """Return -temperature/2 times the squared distance [N,K] of features [N,D] to weights [K,D]."""
    lengths = weights.square().sum(1) + features.square().sum(1, keepdim=True)
    return temperature * (features @ weights.T - lengths / 2)


def class_shares(weights: Tensor, features: Tensor, temperature: float) -> Tensor:
    """Return the softmax [N,K] of class_logits, which takes the features' own lengths out."""
    return (temperature * (features @ weights.T - weights.square().sum(1) / 2)).softmax(1)


def entropy_slope(shares: Tensor, alpha: float) -> Tensor:
    """Return the gradient [...,K] of the alpha-entropy (1 - sum p^alpha) / (alpha - 1) of shares, up to a constant.

    Tsallis's, Veilleux et al. 2021, eq. 4; of alpha=1 Shannon's. A softmax takes the constant out.
    """
    if alpha == 1:
        return -shares.clamp(min=SMALL).log()
    return -alpha / (alpha - 1) * (shares + SMALL).pow(alpha - 1)


def information_gradient(weights: Tensor, task: Task, temperature: float, by: LossWeights, alpha: float) -> Tensor:
    """Return the gradient [K,D] of the support's cross-entropy - marginal + conditional entropy, each by its weight.

    TIM, eq. 4; alpha-TIM of another alpha than 1, eq. 8 (its cross-entropy stays Shannon's). Written out: a thousand
    steps of it are what an episode takes, and autograd's take five times as long.
    """
    shares = class_shares(weights, task.asked, temperature)
    slope = by.conditional * entropy_slope(shares, alpha) - by.marginal * entropy_slope(shares.mean(0), alpha)
    asked = shares * (slope - (shares * slope).sum(1, keepdim=True)) / shares.shape[0]
    wrong = class_shares(weights, task.known, temperature) - task.onto
    known = by.cross_entropy / wrong.shape[0] * wrong
    pulled = known.T @ task.known + asked.T @ task.asked  # apart, for to join the features takes as long as this
    return temperature * (pulled - (known.sum(0) + asked.sum(0))[:, None] * weights)


def descend(gradient: Callable[[Tensor], Tensor], weights: Tensor, lr: float, steps: int) -> Tensor:
    """Return the weights after so many steps of Adam, with torch's other settings, against a gradient (TIM-GD)."""
    at, how = {"weights": weights}, InnerOptimizer("adam", lr)
    with full_precision(weights.device.type):
        for _ in range(steps):
            at, how = how.step(at, {"weights": gradient(at["weights"])})
    return at["weights"]


def alternate(weights: Tensor, task: Task, temperature: float, by: LossWeights, steps: int) -> Tensor:
    """Return the weights after so many alternating updates of soft labels and weights (TIM-ADM, prop. 1, eq. 5 to 7).

    As their code has it (tim.py:204-245), with 1 for the weight of the KL penalty and for the step.
    """
    support, queries = by.cross_entropy / (1 + by.conditional), task.known.shape[0] / task.asked.shape[0]
    for _ in range(steps):
        known = class_shares(weights, task.known, temperature)
        shares = class_shares(weights, task.asked, temperature)
        sharp = shares.pow(1 + by.conditional)
        labels = sharp / sharp.sum(0).clamp(min=SMALL).pow(by.marginal / (1 + by.marginal))
        labels = labels / labels.sum(1, keepdim=True)
        weights = (
            support * (task.onto.T @ task.known + _pull(weights, known, task.known))
            + queries * (labels.T @ task.asked + _pull(weights, shares, task.asked))
        ) / (support * task.onto.sum(0) + queries * labels.sum(0))[:, None]
    return weights


def _pull(weights: Tensor, shares: Tensor, features: Tensor) -> Tensor:
    """Return sum_i p_ik (w_k - z_i) [K,D]: the gradient of the log-partition, up to the temperature."""
    return weights * shares.sum(0)[:, None] - shares.T @ features
