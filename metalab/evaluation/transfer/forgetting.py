"""What a net that is trained in phases keeps and forgets: R[i][j], the accuracy on phase j's data after phase i."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Row = Sequence[float | None]  # accuracies, fractions, on the data of each phase; None: not measured


class Summary(NamedTuple):
    """A matrix in three numbers, fractions; None where nothing of it was measured."""

    average: float | None  # accuracy over the phases so far
    backward_transfer: float | None  # below 0: forgotten
    forgetting: float | None  # above 0: forgotten


def summarize(matrix: Sequence[Row]) -> Summary:
    """Return what the rows so far come to; T is the last of them.

    average: the mean of R[T][j] over j <= T (Lopez-Paz and Ranzato 2017, eq. 2).
    backward_transfer: the mean of R[T][j] - R[j][j] over j < T (the same, eq. 3).
    forgetting: the mean over j < T of max R[i][j] over j <= i < T, less R[T][j] (Chaudhry et al. 2018, eq. 3 and 4,
    whose maximum is over all i < T: here none before phase j itself was trained).

    Args:
        matrix: T + 1 rows, each of T + 1 or more accuracies.
    """
    r = np.array([[np.nan if value is None else value for value in row] for row in matrix], dtype=np.float64)
    last = len(r) - 1
    now, own = r[last, :last], r.diagonal()[:last]
    best = np.array([np.fmax.reduce(r[j:last, j]) for j in range(last)])
    return Summary(_mean(r[last, : last + 1]), _mean(now - own), _mean(best - now))


def so_far(row: Row, images: Sequence[int]) -> float | None:
    """Return the share of all images of several phases that are right; None where one was not measured.

    row: the accuracy on each phase's images; images: how many each has.
    """
    measured = [value for value in row if value is not None]
    if len(measured) < len(row):
        return None
    return float(np.average(measured, weights=images))


def _mean(values: np.ndarray) -> float | None:
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if len(measured) else None
