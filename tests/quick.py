"""Which cases of a large table every run of the tests has; the others are marked slow, and .ci/run has them all."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], now: Callable[[Any], bool]) -> list[Any]:
    """Return the cases of pytest.mark.parametrize; those that are not for `now` are slow."""
    found = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        found.append(case if now(case) else pytest.param(*values, marks=pytest.mark.slow))
    return found


def among(*names: Any) -> Callable[[Any], bool]:
    """Return whether a case, or the first value of one, is one of these."""
    return lambda case: (case[0] if isinstance(case, tuple) else case) in names
