"""Tests of differences, against hand-worked numbers, published tables and scipy's other routes."""

import math
import warnings

import numpy as np
import pytest
import scipy.stats

from metalab.core.statistics import (
    average_ranks,
    holm,
    mean_interval,
    paired_difference,
    unpaired_difference,
    wilcoxon_p,
)

DRAW = np.random.default_rng(3)
A = DRAW.integers(0, 76, 60) / 75
B = np.clip(A + DRAW.integers(-6, 9, 60) / 75, 0, 1)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_paired_difference_by_hand_and_by_scipy():
    # differences 1, 2, 3: mean 2, sd 1, error 1 / sqrt(3); t with 2 degrees has cdf 1/2 + t / (2 sqrt(2 + t^2))
    found = paired_difference([2, 4, 6], [1, 2, 3])
    t = 2 * math.sqrt(3)
    assert found.mean == 2
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2), abs=1e-12)
    assert (found.high - found.low) / 2 == pytest.approx(4.302652729911 / math.sqrt(3), abs=1e-9)  # t(0.975, 2)
    other, oracle = paired_difference(A, B), scipy.stats.ttest_rel(A, B)
    assert other.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert tuple(other[1:3]) == pytest.approx(tuple(oracle.confidence_interval(0.95)), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.125])
def test_equal_differences_have_no_error(shift):
    found = paired_difference(A + shift, A)
    assert found == (shift, shift, shift, 1.0 if shift == 0 else 0.0)
    assert wilcoxon_p(A, A) == 1.0
    assert np.isnan(paired_difference([0.5], [0.25])[1:]).all()


def test_welch_by_hand():
    # 1, 2, 3: variance 1; 2, 2, 5: variance 3. error^2 = 4/3; degrees (4/3)^2 / (1/9/2 + 1/2) = 3.2
    found = unpaired_difference([1, 2, 3], [2, 2, 5])
    error = math.sqrt(4 / 3)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(1 / error, 3.2), rel=1e-9)
    assert found.low == pytest.approx(-1 - scipy.stats.t.ppf(0.975, 3.2) * error, rel=1e-9)
    assert np.isnan(unpaired_difference([1], [2, 3])[1:]).all()
    assert unpaired_difference([1, 1], [1, 1]) == (0, 0, 0, 1)


def test_wilcoxon_ranks_zeros_and_drops_them():
    # |d| of 0, 0, 1, 2, -3, 4, ranked with the zeros: 3, 4, 5, 6 remain; W+ = 3 + 4 + 6 = 13, W- = 5.
    # Pratt: mean (n (n + 1) - z (z + 1)) / 4 = (42 - 6) / 4 = 9,
    # variance (n (n + 1) (2 n + 1) - z (z + 1) (2 z + 1)) / 24 = (546 - 30) / 24
    z = (13 - 9) / math.sqrt((546 - 30) / 24)
    assert wilcoxon_p([0, 0, 1, 2, -3, 4], [0] * 6) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-9)
    # without ties and zeros all 2^5 signs are alike: W- = 1 is as small as 2 of them, and as 2 on the other side
    assert wilcoxon_p([-1, 2, 3, 4, 5], [0] * 5) == pytest.approx(4 / 32, rel=1e-9)
    assert wilcoxon_p(A, B) == pytest.approx(
        scipy.stats.wilcoxon(np.round(75 * (A - B)), zero_method="pratt", method="approx").pvalue, rel=1e-9
    )


def test_holm_by_hand():
    # 0.01 x 4, 0.013 x 3, 0.02 x 2 = 0.04, 0.04 x 1: none below the one before it
    assert holm([0.04, 0.01, 0.02, 0.013]) == pytest.approx([0.04, 0.04, 0.04, 0.04])
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([math.nan, 0.02, 0.03])[1:] == pytest.approx([0.04, 0.04])  # two tests, not three
    assert holm([]) == []


@pytest.mark.parametrize(("methods", "q"), [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_has_demsars_q(methods, q):
    """Table 5(a) of Demšar 2006."""
    found = average_ranks(DRAW.random((14, methods)))
    assert found.critical == pytest.approx(q * math.sqrt(methods * (methods + 1) / (6 * 14)), abs=2e-3)


def test_friedman_by_hand():
    # ranks 1 2 3, 1 2 3, 1 3 2, 2 1 3: sums 5, 8, 11; chi2 = 12 / (4 3 4) (25 + 64 + 121) - 3 4 4 = 4.5, 2 degrees
    scores = np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4], [0.9, 0.1, 0.5], [0.7, 0.8, 0.2]])
    found = average_ranks(scores)
    assert found.average == [1.25, 2.0, 2.75]
    assert found.p == pytest.approx(math.exp(-4.5 / 2), rel=1e-9)  # chi-squared with 2 degrees is an exponential
    assert average_ranks(np.ones((2, 3))).p == 1
    assert average_ranks(np.ones((2, 3))).average == [2, 2, 2]


def test_few_seeds_have_students_interval_and_ten_a_bootstraps():
    few = mean_interval([0.7, 0.8])
    assert few.kind == "Student's t"
    assert few.high - few.mean == pytest.approx(12.7062047362 * 0.05, rel=1e-9)  # t(0.975, 1), sd / sqrt(2) = 0.05
    many = DRAW.normal(0.8, 0.02, 40)
    found = mean_interval(many)
    assert found.kind == "bootstrap"
    assert found == mean_interval(many)
    half = scipy.stats.t.ppf(0.975, 39) * many.std(ddof=1) / math.sqrt(40)
    assert (found.low, found.high) == pytest.approx((many.mean() - half, many.mean() + half), abs=0.15 * half)
    assert mean_interval([0.5] * 12)[:3] == (0.5, 0.5, 0.5)
    assert mean_interval([0.5]).kind == "none"
