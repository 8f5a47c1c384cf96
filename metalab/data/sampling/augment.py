"""Augmentation of training images as tensor operations on whole meta-batches.

torchvision's and kornia's transforms draw from the global generator and, on a batch, one angle for all its images;
here each image has its own numbers, drawn with its episode, so that they hang on the seed and the episode alone.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.core.errors import UserError

NUMBERS = 7  # random numbers an image: angle, two shifts, flip, brightness, contrast, saturation
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as torchvision's


@dataclass(frozen=True)
class Augment:
    """Move, mirror, recolour and turn each image by draws of its own, the same whatever device or meta-batch."""

    crop: int  # pixels: padding with black on every side, of which a crop of the old size is taken
    flip: float  # share of the images that are mirrored, left to right
    jitter: float  # brightness, contrast and saturation are each multiplied by 1 - jitter .. 1 + jitter
    rotation: float  # degrees, at most, to either side

    def __post_init__(self) -> None:
        most = {"crop": (self.crop, math.inf), "flip": (self.flip, 1), "jitter": (self.jitter, 1)}
        for key, (value, high) in {**most, "rotation": (self.rotation, 180)}.items():
            if not 0 <= value <= high:
                limit = "0 or more" if high == math.inf else f"a number from 0 to {high}"
                raise UserError(f"reg.augment.{key}={value:g}: expected {limit}, 0 for none")

    def __call__(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Return images [T,N,C,H,W] in [0,1] changed by uniform numbers [T,N,7]."""
        flat, u = x.flatten(0, 1), numbers.flatten(0, 1).to(x)
        if self.crop or self.flip or self.rotation:
            flat = self._moved(flat, u[:, :4])
        if self.jitter:
            flat = self._coloured(flat, 1 + self.jitter * (2 * u[:, 4:] - 1))
        return flat.view_as(x)

    def _moved(self, x: Tensor, u: Tensor) -> Tensor:
        """Turn, shift by whole pixels and mirror in one bilinear sampling; what comes from outside is black."""
        height, width = x.shape[-2:]
        angle = (2 * u[:, 0] - 1) * math.radians(self.rotation)
        shift = (u[:, 1:3] * (2 * self.crop + 1)).floor() - self.crop
        mirror = 1 - 2 * (u[:, 3] < self.flip).to(x.dtype)
        cos, sin = angle.cos(), angle.sin()
        rows = [cos * mirror, -sin * height / width, 2 * shift[:, 0] / width]
        rows += [sin * mirror * width / height, cos, 2 * shift[:, 1] / height]
        theta = torch.stack(rows, 1).view(-1, 2, 3)  # from the new image's place to the old one's, both in -1..1
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, "bilinear", "zeros", align_corners=False).clamp(0, 1)

    def _coloured(self, x: Tensor, factors: Tensor) -> Tensor:
        """Change brightness, contrast and, of colour images, saturation, in this order, as torchvision defines them."""
        brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
        x = (x * brightness).clamp(0, 1)
        x = (contrast * x + (1 - contrast) * _grey(x).mean((-2, -1), keepdim=True)).clamp(0, 1)
        if x.shape[1] == 3:
            x = (saturation * x + (1 - saturation) * _grey(x)).clamp(0, 1)
        return x


def _grey(x: Tensor) -> Tensor:
    return (x * x.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True) if x.shape[1] == 3 else x
