"""Logistic regression with decay, by tensor operations alone: it runs under vmap and on a GPU."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.algorithms.components.distances import members
from metalab.core.typed_torch import triangle

GRID = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of C, the weight of the data
FOLDS = 5  # at most
LONE = 1.0  # C where every class has one image: none can be held out
Fit = Callable[..., tuple[Tensor, Tensor]]  # f, y, way, c, iterations, counts -> W [K,D], b [K]


def logistic_regression(
    f: Tensor, y: Tensor, way: int, c: float | Tensor, iterations: int, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return W [K,D] and b [K] of the least |W|^2 / 2 + c * sum of cross-entropies of unit features f [N,D].

    counts: [N] in [0,1], how much each image counts; None: 1.
    """
    onto = members(y, way).to(f.dtype)
    ones = torch.cat([f, f.new_ones(f.shape[0], 1)], 1)  # the last column is the bias, which is not decayed
    decay = torch.cat([f.new_ones(f.shape[1]), f.new_zeros(1)])
    steepest = 1 + c * f.shape[0]  # of the gradient: 1/2 of the softmax's times 2 N, the rows' squared lengths
    momentum = (steepest**0.5 - 1) / (steepest**0.5 + 1)
    rows = ones if counts is None else ones * counts[:, None]
    at = ahead = f.new_zeros(way, ones.shape[1])
    for _ in range(iterations):
        gradient = decay * ahead + c * ((ones @ ahead.T).softmax(1) - onto).T @ rows
        before, at = at, ahead - gradient / steepest
        ahead = at + momentum * (at - before)
    return at[:, :-1], at[:, -1]


def chosen_c(f: Tensor, y: Tensor, way: int, iterations: int, fit: Fit = logistic_regression) -> Tensor:
    """Return the C of GRID, a scalar, with the least cross-entropy of held-out images.

    Fold i has every class's images number i, i + folds, ...; an image is not counted where its class has no other.

    Args:
        f: unit features [N,D] of the support.
        y: labels [N].
        way: the number of classes.
        iterations: of the solver.
        fit: the solver, the same for features in another basis.
    """
    grid, folds = f.new_tensor(GRID), min(FOLDS, f.shape[0] // way)
    if folds < 2:
        return f.new_tensor(LONE)
    f = triangle(f.detach().T).T  # [N,min(N,D)], the features in the space that they span: the same fits
    member = members(y, way)  # [N,K]
    place = (member.cumsum(0) * member).sum(1) - 1  # which of its class's images each is
    held = (place % folds)[None] == torch.arange(folds, device=f.device)[:, None]  # [folds,N]
    others = (~held).to(f.dtype) @ member.to(f.dtype)  # [folds,K], images of each class that are not held out
    judged = held & (others @ member.to(f.dtype).T > 0)

    def losses(left: Tensor, c: Tensor) -> Tensor:
        weight, bias = fit(f, y, way, c, iterations, left)
        return F.cross_entropy(f @ weight.T + bias, y, reduction="none")

    each = torch.vmap(torch.vmap(losses, (None, 0)), (0, None))((~held).to(f.dtype), grid)  # [folds,grid,N]
    best = (each * judged[:, None]).sum((0, 2)).argmin()
    return grid.gather(0, best[None])[0]  # an index of one place would be read by Python
