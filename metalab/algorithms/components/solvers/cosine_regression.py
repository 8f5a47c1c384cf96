"""A cosine classifier fitted by tensor operations alone: it runs under vmap and on a GPU."""

import torch.nn.functional as F
from torch import Tensor

from metalab.algorithms.components.distances import members


def cosine_regression(
    f: Tensor, y: Tensor, way: int, c: float | Tensor, iterations: int, counts: Tensor | None = None, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return W [K,D], whose rows have length scale, so that W f are scaled cosines, and a bias [K] of zeros.

    W has the least |W - scale M|^2 / 2 + c * sum of cross-entropies of unit features f [N,D], M the class means made
    unit vectors: of little data the nearest mean is left, of much the softmax over cosines (Gidaris & Komodakis 2018,
    sec. 3.2, whose scale is learned). By projected, accelerated gradient descent from scale M.

    counts: [N] in [0,1], how much each image counts; None: 1.
    """
    onto = members(y, way).to(f.dtype)
    rows = f if counts is None else f * counts[:, None]
    mean = scale * F.normalize(onto.T @ rows, dim=1)
    steepest = 1 + c * f.shape[0] / 2  # of the gradient: 1/2 of the softmax's times N unit rows
    momentum = (steepest**0.5 - 1) / (steepest**0.5 + 1)
    at = ahead = mean
    for _ in range(iterations):
        gradient = ahead - mean + c * ((f @ ahead.T).softmax(1) - onto).T @ rows
        before, at = at, scale * F.normalize(ahead - gradient / steepest, dim=1)
        ahead = at + momentum * (at - before)
    return at, at.new_zeros(way)
