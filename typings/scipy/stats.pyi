# Of scipy.stats, which says nothing of its types, what metalab uses.
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

class _Interval(Protocol):
    low: float
    high: float

class _TTest(Protocol):
    statistic: float
    pvalue: float
    def confidence_interval(self, confidence_level: float = ...) -> _Interval: ...

class _Bootstrap(Protocol):
    confidence_interval: _Interval

class _Test(Protocol):
    statistic: float
    pvalue: float

class _StudentizedRange(Protocol):
    def ppf(self, q: float, k: float, df: float) -> float: ...

studentized_range: _StudentizedRange

def ttest_1samp(a: np.ndarray, popmean: float) -> _TTest: ...
def ttest_ind(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, equal_var: bool) -> _TTest: ...
def wilcoxon(x: np.ndarray, *, zero_method: str, method: str) -> _Test: ...
def friedmanchisquare(*samples: np.ndarray) -> _Test: ...
def rankdata(a: np.ndarray, *, axis: int) -> np.ndarray: ...
def bootstrap(
    data: tuple[np.ndarray, ...], statistic: Callable[..., Any], *, method: str, random_state: np.random.Generator
) -> _Bootstrap: ...
def __getattr__(name: str) -> Any: ...  # what tests use besides
