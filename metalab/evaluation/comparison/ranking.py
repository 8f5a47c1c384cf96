"""Methods beside the best one: differences on the same episodes and over seeds, and how sure they are."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from metalab.core.statistics import (
    Difference,
    Interval,
    holm,
    mean_ci95,
    mean_interval,
    paired_difference,
    unpaired_difference,
    wilcoxon_p,
)
from metalab.tracking.comparison.records import Method, Row, RunResult


def rank(methods: Sequence[Method], runs: Sequence[RunResult], units: str, alpha: float) -> tuple[list[Row], str]:
    """Return a row a method, ranked ones first and the best first, and what their significance is about.

    Args:
        methods: whose runs they are.
        runs: of one data set.
        units: what an accuracy is of, episodes or images.
        alpha: level of the tests.

    Returns:
        The rows. And "seeds" where all ranked methods have two or more, for then it is about the methods; else
        "episodes": it is about these nets.
    """
    rows = sorted(
        (_row(method, [runs[i] for i in method.runs], units) for method in methods),
        key=lambda row: (not row.ranked, not row.paired, -row.accuracy.mean),
    )
    ranked = [row for row in rows if row.ranked]
    level = "seeds" if ranked and all(len(row.method.runs) > 1 for row in ranked) else "episodes"
    if not ranked:
        return rows, level
    best = ranked[0]
    rows = [replace(row, best=True) if row is best else _beside(row, best, runs) for row in rows]
    return _corrected(rows, level, alpha), level


def by_episode(method: Method, runs: Sequence[RunResult]) -> np.ndarray:
    """Return the accuracy [E] of a method on each episode, the mean over its seeds."""
    return np.mean([runs[i].accuracy for i in method.runs], axis=0)


def _row(method: Method, runs: Sequence[RunResult], units: str) -> Row:
    """Return a method's row without any comparison."""
    means = [float(run.accuracy.mean()) for run in runs]
    if len(runs) > 1:
        accuracy, over = mean_interval(means), f"{len(runs)} seeds"
    else:
        mean, half = mean_ci95(runs[0].accuracy)
        kind = "none" if math.isnan(half) else "Student's t"
        accuracy, over = Interval(mean, mean - half, mean + half, kind), f"{len(runs[0].accuracy)} {units}"
    remarks = list(dict.fromkeys(remark for run in runs for remark in run.remarks))
    paired, ranked = (all(getattr(run, name) for run in runs) for name in ("paired", "ranked"))
    return Row(method, accuracy, over, paired, ranked, False, remarks)


def _beside(row: Row, best: Row, runs: Sequence[RunResult]) -> Row:
    """Return the row with its differences to the best one; those with other episodes have none."""
    if not row.paired:
        return row
    own, other = by_episode(row.method, runs), by_episode(best.method, runs)
    over_seeds, paired = _over_seeds(row.method, best.method, runs)
    return replace(
        row,
        episodes=paired_difference(own, other),
        wilcoxon=wilcoxon_p(own, other),
        seeds=over_seeds,
        seeds_paired=paired,
    )


def _over_seeds(method: Method, best: Method, runs: Sequence[RunResult]) -> tuple[Difference | None, bool]:
    """Return the difference of the means over seeds, and whether the same seeds made pairs of them."""
    if min(len(method.runs), len(best.runs)) < 2:
        return None, False
    own, other = (
        {seed: float(runs[i].accuracy.mean()) for i, seed in zip(m.runs, m.seeds, strict=True)} for m in (method, best)
    )
    if set(own) == set(other):
        return paired_difference(list(own.values()), [other[seed] for seed in own]), True
    return unpaired_difference(list(own.values()), list(other.values())), False


def _corrected(rows: list[Row], level: str, alpha: float) -> list[Row]:
    """Return the rows with p-values that hold for all comparisons with the best together, of the ranked ones."""
    tested = [i for i, row in enumerate(rows) if row.ranked and not row.best]
    columns = {
        "episodes_holm": [_p(rows[i].episodes) for i in tested],
        "wilcoxon_holm": [_p(rows[i].wilcoxon) for i in tested],
        "seeds_holm": [_p(rows[i].seeds) for i in tested],
    }
    for name, values in columns.items():
        for i, p in zip(tested, holm(values), strict=True):
            rows[i] = replace(rows[i], **{name: None if math.isnan(p) else p})
    for i in tested:
        p = rows[i].seeds_holm if level == "seeds" else rows[i].episodes_holm
        rows[i] = replace(rows[i], significant=None if p is None else p < alpha)
    return rows


def _p(tested: Difference | float | None) -> float:
    return tested.p if isinstance(tested, Difference) else math.nan if tested is None else tested
