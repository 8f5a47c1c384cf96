"""What a comparison found, as plain data: made in evaluation/comparison, written by compare_report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from metalab.core.statistics import Difference, Interval, Ranks


@dataclass(frozen=True)
class RunResult:
    """One run on one data set."""

    folder: str  # what people are shown
    record: Mapping[str, Any]  # as eval.json has it
    accuracy: np.ndarray  # float64 [E] of each episode, or image
    classes: Mapping[str, Sequence[Any]] | None  # the columns of per_class.csv; None: eval.report=false
    adaptation: Sequence[tuple[float, float]]  # mean and half-width after 0, 1, ... inner steps; empty: not measured
    remarks: Sequence[str]  # in what it was measured otherwise than the runs it is compared with
    paired: bool  # whether its episodes are those of the others
    ranked: bool  # whether it may be called better or worse than they


@dataclass(frozen=True)
class Method:
    """Runs that differ in their seed alone."""

    label: str
    runs: Sequence[int]  # which of the runs, 0, 1, ...
    seeds: Sequence[int | None]  # of their trainings, in the same order


@dataclass(frozen=True)
class Row:
    """One method on one data set; differences are this method less the best one."""

    method: Method
    accuracy: Interval
    over: str  # what the interval is over: "600 episodes", "3 seeds"
    paired: bool
    ranked: bool
    best: bool
    remarks: Sequence[str]
    episodes: Difference | None = None  # over the episodes, paired; None: it is the best, or has other episodes
    wilcoxon: float | None = None  # p of the same pairs by ranks
    episodes_holm: float | None = None  # both corrected for the number of comparisons; None: it is not ranked
    wilcoxon_holm: float | None = None
    seeds: Difference | None = None  # over the seeds; None: one of the two methods has a single run
    seeds_paired: bool = False  # whether the two have the same seeds, which then are pairs
    seeds_holm: float | None = None
    significant: bool | None = None  # at the level of the tests; None: not tested


class Difficulty(NamedTuple):
    """How hard the shared episodes are, and where methods differ."""

    methods: list[str]  # [M] labels, of the methods with the same episodes
    accuracy: np.ndarray  # float64 [M,E], a method's mean over its seeds
    mean: np.ndarray  # float64 [E], over the methods
    disagreement: np.ndarray  # float64 [E], the largest accuracy less the smallest


class ShownEpisode(NamedTuple):
    """One episode with the predictions of each run; images uint8 [N,C,H,W], labels int [N]."""

    number: int
    why: str  # it is shown
    names: Sequence[str]  # [way]
    support_x: np.ndarray
    support_y: np.ndarray
    query_x: np.ndarray
    query_y: np.ndarray
    answers: Mapping[str, np.ndarray]  # by the run's label, int [N]; -1: the prediction was no number


@dataclass(frozen=True)
class DataResult:
    """All methods on one data set."""

    name: str  # of the data
    task: str  # in words
    units: str  # "episodes" or "images"
    runs: Sequence[RunResult]
    rows: Sequence[Row]  # ranked ones first, the best first
    level: str  # what significance is about: "seeds" or "episodes"
    difficulty: Difficulty | None
    shown: Sequence[ShownEpisode] = ()


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison is reported from."""

    alpha: float
    methods: Sequence[Method]
    run_labels: Sequence[str]  # of each run: its method, and its seed where the method has several
    data: Sequence[DataResult]
    ranks: Ranks | None  # over the data sets; None: fewer than 3 methods or 2 data sets
    settings: Mapping[str, Sequence[Any]]  # key: value of each method, where they differ; None: it has no such key
    made_by: Sequence[Mapping[str, Any]]  # of each run, run.json; empty: there is none
    training: Sequence[Sequence[Mapping[str, Any]]]  # of each run, the lines of metrics.jsonl
    notes: Sequence[str] = field(default_factory=list[str])
