"""The backbone that learns nothing: the images themselves, made smaller."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.core.errors import UserError


class Shrink(nn.Module):
    """Resize [N,C,H,H] to [N,C,size,size] by antialiased bilinear interpolation, as two matrices: it is separable."""

    weights: Tensor

    def __init__(self, before: int, size: int) -> None:
        super().__init__()
        impulses = torch.eye(before)[:, None, :, None].expand(-1, -1, -1, 2)
        rows = F.interpolate(impulses, (size, 2), mode="bilinear", antialias=True)[:, 0, :, 0].T
        self.register_buffer("weights", rows.contiguous(), persistent=False)  # [size,before]

    def forward(self, x: Tensor) -> Tensor:
        return self.weights @ x @ self.weights.T


@dataclass(frozen=True)
class Pixels:
    """The flattened pixels of the image made size x size, as features [N,C*size*size,1,1] (MANN: 20)."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"backbone.size={self.size}: expected 1 pixel or more")

    def build(self, channels: int, size: int) -> nn.Module:
        flat = nn.Flatten(), nn.Unflatten(1, (channels * self.size**2, 1, 1))
        return nn.Sequential(Shrink(size, self.size), *flat)
