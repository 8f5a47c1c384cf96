"""Noise: each pixel for itself."""

import torch
from torch import Tensor

from metalab.data.corruptions.base import Draws, Kind, Level


def gaussian_noise(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Add normal noise, as in poor light. level: (standard deviation,)."""
    return x + level[0] * draws.normal(*x.shape[1:])


def shot_noise(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Count photons: Poisson noise. level: (photons of a white pixel,)."""
    return draws.poisson(x * level[0]) / level[0]


def impulse_noise(x: Tensor, level: Level, draws: Draws) -> Tensor:
    """Make values black or white, salt and pepper, each channel for itself. level: (share of the values,)."""
    hit, white = (draws.uniform(0, 1, *x.shape[1:]) for _ in range(2))
    return torch.where(hit < level[0], (white < 0.5).to(x), x)


KINDS = {
    "gaussian_noise": Kind("noise", gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": Kind("noise", shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": Kind("noise", impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
}
