"""Functions that torch leaves without types, with them: here alone a strict type checker takes our word for it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import torch
from torch import Tensor


def split(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """Return x [N,...] in pieces of `size` rows, the last one of what is left."""
    return x.split(size)


def unflatten(x: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    """Return x with one dimension as several, of which one may be -1."""
    return x.unflatten(dim, sizes)


def broadcast_tensors(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both tensors expanded to their common shape."""
    return torch.broadcast_tensors(a, b)


def triangle(a: Tensor) -> Tensor:
    """Return R [min(N,D),D] of A = Q R, A [N,D], Q with orthonormal columns."""
    return torch.linalg.qr(a, mode="r").R


def solve(a: Tensor, b: Tensor) -> Tensor:
    """Return X [N,K] with A X = B; A [N,N], B [N,K]."""
    return torch.linalg.solve(a, b)


def solve_unchecked(a: Tensor, b: Tensor) -> Tensor:
    """Return what solve does, but never wait for the device to see whether A is singular."""
    return torch.linalg.solve_ex(a, b)[0]
