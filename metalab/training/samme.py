"""SAMME, AdaBoost for several classes (Zhu, Zou, Rosset & Hastie 2009, algorithm 2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Boost:
    """What a training draws by, and what made it."""

    runs: list[str]  # folders of the earlier runs, in their order
    errors: list[float]  # their weighted shares of wrong predictions
    alphas: list[float]  # the weights of their votes
    weights: Tensor  # float64 [n], of each training image, or class; the mean is 1

    def saved(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, so that a resumed run needs no earlier one."""
        return {"runs": self.runs, "errors": self.errors, "alphas": self.alphas, "weights": self.weights}


def alpha(error: float, classes: int) -> float:
    """Return log((1 - err) / err) + log(K - 1): algorithm 2 (2c); infinite without an error, nan where all is wrong."""
    if error <= 0:
        return math.inf
    return math.log((1 - error) / error) + math.log(classes - 1) if error < 1 else math.nan


def usable(by: float) -> bool:
    """Whether an alpha can weight a vote: a number above 0, and above what rounding makes of chance."""
    return 1e-9 < by < math.inf


def weighted_error(wrong: np.ndarray, weights: np.ndarray) -> float:
    """Return sum_i w_i wrong_i / sum_i w_i: algorithm 2 (2b).

    wrong: float64 [n], 0 or 1; of classes the share of their queries that is wrong.
    """
    return float((weights * wrong).sum() / weights.sum())


def reweighted(weights: np.ndarray, wrong: np.ndarray, by: float) -> np.ndarray:
    """Return w_i exp(alpha wrong_i), normalized to a mean of 1: algorithm 2 (2d, 2e)."""
    new = weights * np.exp(by * wrong)
    return new / new.mean()


def samme(wrong: Sequence[np.ndarray], classes: int) -> tuple[list[float], list[float], np.ndarray]:
    """Return the error and the alpha of each of M classifiers in turn, and the weights [n] after the last.

    It stops before a classifier whose alpha is not a number above 0, of which the weights could not be made: there are
    then fewer alphas than errors.
    """
    weights, errors, alphas = np.ones(len(wrong[0])), [], []
    for each in wrong:
        errors.append(weighted_error(each, weights))
        by = alpha(errors[-1], classes)
        if not usable(by):
            break
        alphas.append(by)
        weights = reweighted(weights, each, by)
    return errors, alphas, weights


def restored(saved: dict[str, Any]) -> Boost:
    """Return what Boost.saved gave."""
    weights = torch.as_tensor(saved["weights"], dtype=torch.float64)
    return Boost(list(saved["runs"]), list(saved["errors"]), list(saved["alphas"]), weights)
