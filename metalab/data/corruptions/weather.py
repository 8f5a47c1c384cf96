"""Weather: snow, frost, fog, and the brightness of the day."""

import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.data.corruptions import filters
from metalab.data.corruptions.base import Draws, Kind, Level, grey

ICE = (0.86, 0.94, 1.0)  # red, green and blue of white frost
FINEST = 96  # pixels a side in which ice is drawn


def snow(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Whiten the image and let flakes fall over it, and the same flakes turned by 180 degrees.

    level: (mean and standard deviation of the noise, its zoom, the threshold of a flake, radius and sigma of their
    motion blur in pixels, share of the image that is not whitened).
    """
    mean, deviation, factor, threshold, radius, sigma, share = level
    images, _, height, width = x.shape[1:]
    flakes = mean + deviation * draws.normal(images, 1, height, width)
    flakes = filters.separable(flakes, filters.zoom(height, factor), filters.zoom(width, factor))
    flakes = torch.where(flakes < threshold, 0, flakes).clamp(0, 1)
    flakes = filters.motion(flakes, radius, sigma, draws.uniform(-135, -45, images))
    white = torch.maximum(x, 1.5 * grey(x) + 0.5)
    return share * x + (1 - share) * white + flakes + flakes.flip(-2, -1)


def frost(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Look through ice on a pane. level: (share of the image, share of the ice).

    The authors lay a photograph of frost over the image. Theirs are not part of metalab: the ice here is drawn, needles
    in three directions upon a cloudy ground, and covers less, so that numbers are not those of ImageNet-C's frost.
    """
    images, channels, height, width = x.shape[1:]
    ice = ice_texture(draws, images, height, width)
    tint = x.new_tensor(ICE).reshape(3, 1, 1)
    return level[0] * x + level[1] * ice * (tint if channels == 3 else grey(tint))


def ice_texture(draws: Draws, images: int, height: int, width: int) -> Tensor:
    """Return drawn ice [T,images,1,height,width] in [0,1]: a plasma fractal and needles on it.

    It is drawn with at most FINEST pixels a side and enlarged, so that needles are as wide in large images.
    """
    share = min(1.0, FINEST / max(height, width))
    high, wide = (max(round(n * share), 2) for n in (height, width))
    side = max(high, wide)
    ground = plasma_fractal(draws, images, side, 1.8)[..., None, :high, :wide]
    seeds = draws.uniform(0, 1, images, 3, high, wide) < 0.5 / side
    depth, angle, needles = draws.uniform(0.2, 1, images, 3, 1, 1), draws.uniform(0, 60, images, 3), ground * 0
    for i in range(3):
        seed = (seeds * depth)[:, :, i, None]
        for way in (0, 180):
            needles = needles + filters.motion(seed, side / 7, side / 9, angle[..., i] + 60 * i + way)
    needles = (2 * needles / needles.amax((-2, -1), keepdim=True).clamp(min=1e-6)).clamp(max=1)
    ice = (0.9 * ground + needles * (0.3 + 0.4 * ground)).clamp(0, 1)
    return F.interpolate(ice.flatten(0, 1), (height, width), mode="bilinear").unflatten(0, ice.shape[:2])


def fog(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Lay clouds over the image, a plasma fractal. level: (their strength, wibbledecay: how smooth they are)."""
    strength, decay = level
    images, _, height, width = x.shape[1:]
    clouds = plasma_fractal(draws, images, max(height, width), decay)[..., None, :height, :width]
    most = x.amax((-3, -2, -1), keepdim=True)
    return (x + strength * clouds) * most / (most + strength)


def plasma_fractal(draws: Draws, images: int, side: int, decay: float) -> Tensor:
    """Return clouds [T,images,n,n] from 0 to 1, by the diamond-square algorithm on a torus.

    Args:
        draws: random numbers.
        images: of each episode.
        side: the least n, a power of two.
        decay: by how much the random part shrinks from one scale to the next (wibbledecay of the authors).
    """
    size = 1 << max(side - 1, 1).bit_length()
    field = torch.zeros(len(draws.generators), images, size, size, device=draws.device)
    step, wibble = size, 100.0

    def mean(total: Tensor) -> Tensor:
        return total / 4 + wibble * draws.uniform(-wibble, wibble, *total.shape[1:])

    while step >= 2:
        half = step // 2
        corner = field[..., ::step, ::step]
        square = corner + corner.roll(-1, -2)
        square = square + square.roll(-1, -1)
        field[..., half::step, half::step] = centre = mean(square)
        field[..., ::step, half::step] = mean(centre + centre.roll(1, -2) + corner + corner.roll(-1, -1))
        field[..., half::step, ::step] = mean(centre + centre.roll(1, -1) + corner + corner.roll(-1, -2))
        step, wibble = half, wibble / decay
    low, high = field.amin((-2, -1), keepdim=True), field.amax((-2, -1), keepdim=True)
    return (field - low) / (high - low)


def brightness(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Raise the value of HSV, the largest channel, and keep hue and saturation. level: (what is added,)."""
    value = x.amax(-3, keepdim=True)
    raised = (value + level[0]).clamp(max=1)
    return torch.where(value > 0, x * (raised / value.clamp(min=1e-12)), raised)


KINDS = {
    "snow": Kind(
        "weather",
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Kind(
        "weather",
        frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": Kind(
        "weather",
        fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": Kind("weather", brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
}
