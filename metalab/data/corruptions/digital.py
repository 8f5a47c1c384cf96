"""Digital: what a processing chain does to an image. jpeg_compression has a file of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.data.corruptions import filters
from metalab.data.corruptions.base import SMALL, Draws, Kind, Level
from metalab.data.corruptions.jpeg import jpeg


def contrast(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Move each pixel towards the mean of its channel. level: (what is left of the difference,)."""
    mean = x.mean((-2, -1), keepdim=True)
    return (x - mean) * level[0] + mean


def elastic_transform(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Distort by a random affine map, then by a smooth random field.

    level: (alpha: size of the field, sigma: its smoothness, how far the affine map moves three points), all in pixels.
    """
    alpha, sigma, reach = level
    images, channels, height, width = x.shape[1:]
    flat = x.reshape(-1, channels, height, width)
    back = inverse_affine(height, width, draws.uniform(-reach, reach, images, 3, 2).flatten(0, 1))
    z, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    at = torch.stack([z, y, torch.ones_like(z)], -1).to(back)  # [H,W,3]
    flat = sampled(flat, torch.einsum("bij,hwj->bhwi", back, at), corners=True)
    down, across = (filters.gaussian(n, sigma, 3.0, mirror=True) for n in (height, width))
    field = filters.separable(draws.uniform(-1, 1, images, 2, height, width), down, across).flatten(0, 1) * alpha
    return sampled(flat, at[..., :2] + field.movedim(1, -1), corners=False).reshape(x.shape)


def inverse_affine(height: int, width: int, moved: Tensor) -> Tensor:
    """Return [B,2,3], from a place (x, y) in the new image to one in the old: three points of it go to others.

    They are those of the authors, at a third of the side from the middle; moved [B,3,2]: by how much.
    """
    third = min(height, width) // 3
    middle = moved.new_tensor([width // 2, height // 2])
    old = middle + moved.new_tensor([[third, third], [third, -third], [-third, -third]])
    new = torch.cat([old + moved, torch.ones_like(moved[..., :1])], -1).double()
    return torch.linalg.solve(new, old.double().expand(len(moved), 3, 2)).mT


def sampled(x: Tensor, at: Tensor, corners: bool) -> Tensor:
    """Return images [B,C,H,W] read linearly at places (x, y) in pixels, [B,H,W,2].

    corners: whether what lies beyond is mirrored at the last pixels (OpenCV's BORDER_REFLECT_101), or at the edges
    (scipy's "reflect").
    """
    size = at.new_tensor([x.shape[-1], x.shape[-2]])
    grid = 2 * at / (size - 1) - 1 if corners else (2 * at + 1) / size - 1
    return F.grid_sample(x, grid.to(x), "bilinear", "reflection", align_corners=corners)


def pixelate(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Make the image smaller and large again, both with a BOX filter. level: (what is left of the side,)."""
    down, across = (filters.box(n, small) for n in x.shape[-2:] for small in [max(int(n * level[0]), 1)])
    up, along = (filters.box(small, n) for n in x.shape[-2:] for small in [max(int(n * level[0]), 1)])
    return filters.separable(filters.separable(x, down, across), up, along)


def jpeg_compression(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Write as JPEG and read again, with chroma subsampling 4:2:0. level: (quality of libjpeg, which is rounded,)."""
    return jpeg(x, round(level[0]))


def _of_side(side: int, *shares: tuple[float, float, float]) -> tuple[Level, ...]:
    """Return levels in pixels of shares of a side."""
    return tuple((side * alpha, side * sigma, side * reach) for alpha, sigma, reach in shares)


KINDS = {
    "contrast": Kind("digital", contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Kind(
        "digital",
        elastic_transform,
        _of_side(SMALL, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        _of_side(  # 244 stands in the authors' code, for a side of 224
            244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)
        ),
    ),
    "pixelate": Kind("digital", pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Kind("digital", jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
