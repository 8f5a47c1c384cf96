"""Means over episodes and seeds with their 95 % confidence intervals, and tests of whether methods differ."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BOOTSTRAP = 10  # values from which on their distribution is seen well enough to draw from it again


class Interval(NamedTuple):
    """A mean with its 95 % confidence interval; nan where there is none."""

    mean: float
    low: float
    high: float
    kind: str  # how it was made: "Student's t", "bootstrap" or "none"


class Difference(NamedTuple):
    """The mean of one method's values less that of another's, with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    p: float  # two-sided; nan where there are too few values


class Ranks(NamedTuple):
    """Methods compared over several data sets (Demšar 2006)."""

    average: list[float]  # of each method's ranks, 1 the best
    p: float  # of Friedman's test, that all methods are alike
    critical: float  # how far average ranks must lie apart for Nemenyi's test


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


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Return the mean over seeds with its 95 % interval: Student's t, and from BOOTSTRAP values on a bootstrap's.

    The bootstrap is bias-corrected and accelerated (BCa; Efron 1987), with a fixed seed: the same values give the same
    interval.
    """
    mean, half = mean_ci95(values)
    if len(values) < BOOTSTRAP or np.ptp(values) == 0:
        return Interval(mean, mean - half, mean + half, "none" if math.isnan(half) else "Student's t")
    from scipy.stats import bootstrap

    drawn = bootstrap((np.asarray(values, np.float64),), np.mean, method="BCa", random_state=np.random.default_rng(0))
    return Interval(mean, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high), "bootstrap")


def paired_difference(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> Difference:
    """Return first - second of values that belong together in pairs, [n] each, with the paired t-test's p.

    Differences that are all the same leave nothing to estimate an error by: p is 1 where they are 0, else 0.
    """
    each = _differences(first, second)
    mean = float(each.mean())
    if len(each) < 2:
        return Difference(mean, math.nan, math.nan, math.nan)
    if np.ptp(each) == 0:
        return Difference(mean, mean, mean, float(mean == 0))
    from scipy.stats import ttest_1samp

    tested = ttest_1samp(each, 0)
    interval = tested.confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high), float(tested.pvalue))


def unpaired_difference(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> Difference:
    """Return first - second of values that do not belong together, [n] and [m], by Welch's t-test (1947)."""
    mean = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) < 2:
        return Difference(mean, math.nan, math.nan, math.nan)
    if np.ptp(first) == np.ptp(second) == 0:
        return Difference(mean, mean, mean, float(mean == 0))
    from scipy.stats import ttest_ind

    tested = ttest_ind(first, second, equal_var=False)
    interval = tested.confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high), float(tested.pvalue))


def wilcoxon_p(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Return p of Wilcoxon's signed-rank test of pairs, [n] each; differences of 0 are ranked and dropped (Pratt 1959).

    1 where all differences are 0.
    """
    each = _differences(first, second)
    if not each.any():
        return 1.0
    from scipy.stats import wilcoxon

    # The exact distribution is for few pairs without ties; by name, for "auto" is another in other versions of scipy.
    exact = len(each) <= 50 and 0 not in each and len(np.unique(np.abs(each))) == len(each)
    return float(wilcoxon(each, zero_method="pratt", method="exact" if exact else "approx").pvalue)


def _differences(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return first - second, rounded: accuracies are shares of queries, and equal differences are to be ties."""
    return np.round(np.asarray(first, np.float64) - np.asarray(second, np.float64), 12) + 0.0  # no -0


def holm(p: Sequence[float]) -> list[float]:
    """Return the p-values of several tests, corrected so that they hold for all of them together (Holm 1979).

    The smallest of m is multiplied by m, the next one by m - 1, and so on; none may be below the one before it, and
    none above 1. A nan is no test, and stays.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]  # nan comes last
    corrected = values.copy()
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1)
    return corrected.tolist()


def average_ranks(scores: np.ndarray, alpha: float = 0.05) -> Ranks:
    """Compare methods over data sets by their ranks (Demšar 2006, JMLR 7, 3.2.2).

    Args:
        scores: [N,k], of k >= 3 methods on N >= 2 data sets, higher is better; equal ones share their mean rank.
        alpha: level of Nemenyi's test.

    Returns:
        The average ranks, Friedman's p (chi-squared, corrected for ties) and Nemenyi's critical difference
        q sqrt(k (k + 1) / (6 N)), with q of the studentized range, divided by sqrt(2).
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    sets, methods = scores.shape
    ranks = rankdata(-np.round(scores, 12), axis=1)
    p = float(friedmanchisquare(*ranks.T).pvalue) if np.ptp(ranks, axis=1).any() else 1.0
    q = float(studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return Ranks(ranks.mean(0).tolist(), p, q * math.sqrt(methods * (methods + 1) / (6 * sets)))
