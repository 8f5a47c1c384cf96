"""What Square attack draws: signs, and a square window at a random place of each image."""

import torch
from torch import Tensor

Window = tuple[Tensor, Tensor]  # int64 [N,1,H,1] and [N,1,1,W], how far each row and column is behind its first


def signs(like: Tensor) -> Tensor:
    """Draw -1 or 1 for each number of `like`, in its type."""
    return torch.where(torch.rand_like(like) < 0.5, -1.0, 1.0).to(like.dtype)


def window(x: Tensor, side: int) -> Window:
    """Draw where a window of side x side pixels lies in each image of x [N,C,H,W], all places alike."""

    def along(length: int, dim: int) -> Tensor:
        first = (torch.rand_like(x[:, :1, :1, :1]) * (length - side + 1)).floor().long()
        return torch.arange(length, device=x.device).reshape([-1 if d == dim else 1 for d in range(4)]) - first

    return along(x.shape[2], 2), along(x.shape[3], 3)


def inside(place: Window, side: int) -> Tensor:
    """Return bool [N,1,H,W], the pixels of a window."""
    rows, columns = ((steps >= 0) & (steps < side) for steps in place)
    return rows & columns
