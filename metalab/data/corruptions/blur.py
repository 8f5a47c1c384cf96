"""Blur: pixels mixed with their neighbours."""

import math

import torch
from torch import Tensor

from metalab.data.corruptions import filters
from metalab.data.corruptions.base import Draws, Kind, Level


def disk(radius: float, sigma: float) -> Tensor:
    """Return the kernel [k,k] of an image out of focus: a disk, smoothed at its rim by a Gaussian of 3 or 5 pixels."""
    reach, window = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    at = torch.arange(-reach, reach + 1).double()
    filled = (at[:, None] ** 2 + at**2 <= radius**2).double()
    tap = torch.arange(-window, window + 1)
    weight = torch.exp(-0.5 * (tap.double() / sigma) ** 2)
    source = filters.reflected(torch.arange(len(at))[:, None] + tap, len(at))
    smooth = torch.zeros(len(at), len(at), dtype=torch.float64)
    smooth.scatter_add_(1, source, (weight / weight.sum()).expand(len(at), -1))
    kernel = filters.separable(filled / filled.sum(), smooth, smooth)
    rim = int((kernel.sum(0) > 0).nonzero()[0])  # what is 0 all around costs time alone
    return kernel[rim : len(kernel) - rim, rim : len(kernel) - rim]


def defocus_blur(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Put the image out of focus. level: (radius of the disk in pixels, alias_blur of its rim in pixels)."""
    radius, sigma = level
    return filters.convolved(x, disk(radius, sigma))


def glass_blur(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Look through frosted glass: take each pixel from nearby, between two Gaussian blurs.

    level: (sigma of the blurs in pixels, max_delta in pixels, iterations); the last two are rounded. As in the authors'
    code, which means to swap two pixels and copies one where images have colours, a pixel is copied.
    """
    (sigma, delta, rounds), (height, width) = (level[0], *map(round, level[1:])), x.shape[-2:]
    down, across = (filters.gaussian(n, sigma, 4.0, mirror=False) for n in (height, width))
    taken = glass(draws, x.shape[1], height, width, delta, rounds).reshape(*x.shape[:2], 1, -1)
    blurred = filters.separable(x, down, across).flatten(-2)
    moved = blurred.gather(-1, taken.expand(-1, -1, x.shape[2], -1)).reshape(x.shape)
    return filters.separable(moved, down, across)


def glass(draws: Draws, images: int, height: int, width: int, delta: int, rounds: int) -> Tensor:
    """Return which pixel comes to stand at each of an image, int64 [T,images,height * width].

    Row by row from the last, from right to left, a pixel becomes that at -delta..delta - 1 from it, which may have
    changed before. A pixel waits for no other than those at most 2 delta - 1 away, so that all on a slanting line, with
    2 delta columns from row to row, change at once.
    """
    offset = draws.integers(-delta, delta, images, rounds, height, width, 2).flatten(0, 1)
    source = torch.arange(height * width, device=offset.device).repeat(len(offset), 1)
    y, z = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    changes = (y > delta) & (y <= height - delta) & (z > delta) & (z <= width - delta)
    when = (height - y) * 2 * delta + width - z
    order = [(changes & (when == t)).flatten().nonzero()[:, 0] for t in when[changes].unique().tolist()]
    moves = (offset[..., 0] + width * offset[..., 1]).flatten(2)
    for turn in range(rounds):
        for place in order:
            here = place.to(offset.device)
            source[:, here] = source.gather(1, here + moves[:, turn, here])
    return source.reshape(len(draws.generators), images, -1)


def motion_blur(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Move the camera along a line of -45 to 45 degrees. level: (radius, sigma) of the line in pixels."""
    radius, sigma = level
    return filters.motion(x, radius, sigma, draws.uniform(-45, 45, x.shape[1]))


def zoom_blur(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Move the camera towards the scene: the mean of the image and of its zooms. level: (end, step) of the factors."""
    end, step = level
    between = (1 + step) - 1  # to the last digit the numbers of numpy.arange(1, end, step), some of which are rounded
    factors = [1 + i * between for i in range(math.ceil((end - 1) / step))]
    made = x.clone()
    for factor in factors:
        made += filters.separable(x, *(filters.zoom(n, factor) for n in x.shape[-2:]))
    return made / (len(factors) + 1)


KINDS = {
    "defocus_blur": Kind(
        "blur",
        defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": Kind(
        "blur",
        glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": Kind(
        "blur",
        motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": Kind(
        "blur",
        zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
}
