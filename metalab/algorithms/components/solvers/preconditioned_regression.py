"""Logistic regression on features of any length: its steps are those of Newton's method with a bound on the Hessian."""

import torch
from torch import Tensor

from metalab.algorithms.components.distances import members
from metalab.core.typed_torch import solve_unchecked


def preconditioned_regression(
    f: Tensor, y: Tensor, way: int, c: float, iterations: int, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return W [K,D] and b [K] of the least |W|^2 / 2 + c * sum of cross-entropies of features f [N,D].

    What scikit-learn's LogisticRegression(C=c) minimizes, by tensor operations alone. No Hessian of a softmax is above
    half the features' second moments (Boehning 1992), whose inverse is the step's; Nesterov's momentum begins anew
    where it climbs (O'Donoghue & Candes 2015, eq. 12).

    counts: [N], 0 or more, how much each row counts; None: 1.
    """
    onto = members(y, way).to(f.dtype)
    rows = torch.cat([f, f.new_ones(f.shape[0], 1)], 1)  # the last column is the bias, which is not decayed
    decay = torch.cat([f.new_ones(f.shape[1]), f.new_zeros(1)])
    counted = rows if counts is None else rows * counts[:, None]
    bound = c / 2 * (rows.T @ counted).double() + torch.diag(decay).double()
    step = solve_unchecked(bound, torch.eye(bound.shape[0]).to(bound)).to(f.dtype)
    at = ahead = f.new_zeros(way, rows.shape[1])
    age = f.new_zeros(())
    for _ in range(iterations):
        gradient = decay * ahead + c * ((rows @ ahead.T).softmax(1) - onto).T @ counted
        before, at = at, ahead - gradient @ step
        climbs = (gradient * (at - before)).sum() > 0
        age = torch.where(climbs, 0, age + 1)
        ahead = at + age / (age + 3) * (at - before)
    return at[:, :-1], at[:, -1]
