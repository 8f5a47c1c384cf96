"""How Square attack changes an image under L2: Andriushchenko, Croce, Flammarion, Hein 2020, algorithm 3."""

import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.attacks.base import project, steepest_direction
from metalab.attacks.square_windows import inside, signs, window

TILES = 5  # a side of the grid


def profile(side: int, like: Tensor) -> Tensor:
    """Return eta [side,side] of length 1: a hill over a valley, both highest in their middle (eq. 2)."""
    half = side // 2
    both = torch.cat([_hill(half, side, like), -_hill(side - half, side, like)])
    return both / both.square().sum().sqrt()


def _hill(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return the sum of 1/k^2 over the rings k around the middle that a pixel is inside of, at length 1."""
    down, right = ((torch.arange(n, device=like.device) - n // 2).abs() for n in (rows, columns))
    ring = torch.maximum(down[:, None], right)
    k = torch.arange(1, max(rows, columns) // 2 + 2, device=like.device)
    height = torch.where(k > ring[..., None], 1 / k.to(like.dtype) ** 2, 0.0).sum(2)
    return height / height.square().sum().sqrt()


def tiled(x: Tensor, eps: float) -> Tensor:
    """Return where the search begins: a grid of profiles, each upright or across, of its own sign in each channel."""
    high, wide = x.shape[2:]
    count = min(TILES, high, wide)
    side = min(high, wide) // count

    def each(like: Tensor) -> Tensor:
        return signs(like).repeat_interleave(side, 2).repeat_interleave(side, 3)

    eta, corner = profile(side, x), x[:, :, :count, :count]
    grid = each(corner) * torch.where(each(corner[:, :1]) > 0, eta.repeat(count, count), eta.T.repeat(count, count))
    down, right = high - count * side, wide - count * side
    grid = F.pad(grid, (right // 2, right - right // 2, down // 2, down - down // 2))
    return project(x, x + eps * steepest_direction(grid, "l2"), eps, "l2")


def moved(x: Tensor, best: Tensor, eps: float, side: int) -> Tensor:
    """Return best with the change of a second window, and what is left of eps, brought into a first one.

    There it takes the direction of what was there plus a profile, in each channel for itself; x: the images.
    """
    delta, eta = best - x, profile(side, x)
    place = window(x, side)
    first, second = inside(place, side), inside(window(x, side), side)
    rows, columns = (steps.clamp(0, side - 1) for steps in place)
    eta = torch.where(signs(x[:, :1, :1, :1]) > 0, eta[rows, columns], eta.T[rows, columns]) * first
    there = delta * first
    unused = (eps**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp(min=0.0)
    size = ((delta * (first | second)).square().sum((2, 3), keepdim=True) + unused / x.shape[1]).sqrt()
    new = signs(x[:, :, :1, :1]) * eta + there / _norm(there)
    change = torch.where(first, size * new / _norm(new), torch.where(second, 0.0, delta))
    return project(x, x + change, eps, "l2")


def _norm(window: Tensor) -> Tensor:
    return window.square().sum((2, 3), keepdim=True).sqrt().clamp(min=1e-12)
