"""Whether a classifier's confidence is its accuracy, and the temperature that makes it so (Guo et al. 2017)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BINS = 15  # of equal width, as many as Guo et al. 2017 take
RANGE = (1e-3, 1e3)  # of the temperatures that are tried


@dataclass(frozen=True)
class Reliability:
    """How often predictions of about the same confidence are right, a bin each."""

    count: np.ndarray  # int64 [BINS], predictions
    confidence: np.ndarray  # float64 [BINS], their mean; nan where there are none
    accuracy: np.ndarray  # float64 [BINS], the share that is right; nan where there are none

    @property
    def ece(self) -> float:
        """The expected calibration error: 15 bins of equal width, Guo et al. 2017, eq. 5; a fraction."""
        gap = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float((self.count * gap).sum() / self.count.sum())


def reliability(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Reliability:
    """Sort predictions into bins by the largest probability, the softmax of logits / temperature.

    Args:
        logits: float [N,K]; a row that is no numbers is a wrong prediction of confidence 0.
        labels: int64 [N].
        temperature: above 0; it changes no prediction.

    Returns:
        Bin m of 1..M holds the confidences in ((m-1)/M, m/M], the first one 0 as well.
    """
    confidence, taken = (logits.double() / temperature).softmax(1).nan_to_num(0.0).max(1)
    right = ((taken == labels) & (confidence > 0)).double().numpy()
    share = confidence.numpy()
    of = np.clip(np.ceil(share * BINS).astype(np.int64) - 1, 0, BINS - 1)
    count = np.bincount(of, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return Reliability(count, *(np.bincount(of, each, BINS) / count for each in (share, right)))


def negative_log_likelihood(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Return the mean cross-entropy of logits [N,K] / temperature against labels [N], or probabilities [N,K]."""
    return float(torch.nn.functional.cross_entropy(logits.double() / temperature, labels))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature of the least negative log-likelihood (Guo et al. 2017, sec. 4.2), within RANGE.

    logits: float [N,K] of images that neither trained the net nor measure it; labels: int64 [N], or the probability of
    each class, float64 [N,K]. There is one best temperature: the logarithm of the likelihood is concave in its inverse.
    """
    from scipy.optimize import minimize_scalar  # a second, which no --help should wait for

    sound = logits.isfinite().all(1)
    logits, labels = logits[sound].double(), labels[sound]
    low, high = map(math.log, RANGE)
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, labels, math.exp(log_t)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-5},
    )
    return math.exp(found.x)
