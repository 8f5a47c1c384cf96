"""What several nets say of the same queries, made one prediction: tensor operations alone."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metalab.evaluation.query_predictions import NONE, predicted

TIE = 1e-6  # of the mean probability beside whole votes: decides between classes with as many votes, and nothing else
LEAST = -1e4  # of a log-probability that is weighted: minus infinity times 0 is no number


def log_probabilities(logits: Tensor) -> Tensor:
    """Return float64 log-probabilities [...,K] of logits [...,K]; a row that is no numbers says nothing: -log K."""
    sound = logits.amax(-1, keepdim=True).isfinite()
    return torch.where(sound, logits.double(), 0.0).log_softmax(-1)


def mean_probability(logits: Sequence[Tensor]) -> Tensor:
    """Return the log of the members' mean probability, float64 [...,K]; logits: M tensors [...,K]."""
    stacked = torch.stack([log_probabilities(each) for each in logits])
    return _known(stacked.logsumexp(0) - math.log(len(logits)), logits)


def votes(logits: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Return the log of each class's share of the members' votes, float64 [...,K].

    Args:
        logits: M tensors [...,K]; a member votes for its likeliest class, and not at all where that is no number.
        weights: of the votes, [M], above 0; None: alike. By alpha it is SAMME's rule (Zhu et al. 2009, alg. 2 (3)).

    Returns:
        Among classes with as many votes the mean probability decides: a millionth of it counts beside the votes.
    """
    total = TIE * mean_probability(logits).exp()
    for each, weight in zip(logits, weights or [1.0] * len(logits), strict=True):
        taken = predicted(each)
        one = torch.nn.functional.one_hot(taken.clamp(min=0), each.shape[-1])
        total = total + weight * one * (taken != NONE)[..., None]
    return (total / total.sum(-1, keepdim=True)).log()


def weighted(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return log softmax of sum_m w_m log p_m, float64 [...,K]: a weight a member, the same for every class."""
    total = sum(w * log_probabilities(each).clamp(min=LEAST) for w, each in zip(weights, logits, strict=True))
    assert isinstance(total, Tensor)
    return _known(total.log_softmax(-1), logits)


def _known(combined: Tensor, logits: Sequence[Tensor]) -> Tensor:
    """Put nan where no member has numbers: such a query has no prediction, and counts as wrong."""
    sound = torch.stack([each.amax(-1).isfinite() for each in logits]).any(0)
    return torch.where(sound[..., None], combined, math.nan)
