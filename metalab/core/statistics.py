"""Means over episodes and seeds with their 95 % confidence intervals."""

import math
from collections.abc import Sequence

import numpy as np


def mean_ci95(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the mean of n values and the half-width of its 95 % confidence interval, t sd / sqrt(n).

    sd is the sample's, with n - 1, and t is Student's: 2.09 for 20 values, 1.96 for 600. One value alone has no
    interval: nan. No value at all: ValueError.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        raise ValueError("a mean of no values: expected at least one episode")
    return float(values.mean()), t95(values.size) * sample_sd(values) / math.sqrt(values.size)


def t95(values: int) -> float:
    """Return how many standard errors of a mean of so many values its 95 % interval reaches (Student 1908)."""
    from scipy.special import stdtrit  # half a second, which no --help should wait for

    return float(stdtrit(values - 1, 0.975)) if values > 1 else math.nan


def sample_sd(values: Sequence[float] | np.ndarray) -> float:
    """Return the standard deviation with n - 1; nan for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
