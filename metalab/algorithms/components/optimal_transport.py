"""The soft assignment of queries to classes that gives each class as many queries: Sinkhorn's algorithm."""

from typing import NamedTuple

from torch import Tensor


class Transport(NamedTuple):
    """The plan of N queries of mass 1 and K classes of mass N / K."""

    log_plan: Tensor  # [N,K]
    columns: Tensor  # [K], what the columns were scaled by: where the next plan, of costs near to these, may start


def transport(cost: Tensor, sharpness: float, rounds: int, columns: Tensor) -> Transport:
    """Return the plan nearest to exp(-sharpness * cost) with the right sums (Cuturi 2013, algorithm 1).

    Args:
        cost: [N,K], of a row at most 80 / sharpness apart, or float32 has no numbers for it.
        sharpness: lambda.
        rounds: of scaling rows, then columns.
        columns: that it starts with [K]; ones, where nothing is known.
    """
    share = cost.shape[0] / cost.shape[1]
    exponent = -sharpness * (cost - cost.amin(1, keepdim=True))
    kernel, rows = exponent.exp(), exponent[:, 0]
    for _ in range(rounds):
        rows = 1 / (kernel @ columns)
        columns = share / (rows @ kernel)
    return Transport(exponent + rows[:, None].log() + columns.log(), columns)
