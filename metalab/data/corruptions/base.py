"""What corruptions share: how strong a severity is for images of a size, and where random numbers come from."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SEVERITIES = (1, 2, 3, 4, 5)
SMALL, LARGE = 32, 224  # pixels a side of CIFAR-10-C and of ImageNet-C, whose parameters are published

Level = tuple[float, ...]  # the parameters of one severity, in the order of the authors' code


@dataclass(frozen=True)
class Draws:
    """Random numbers of episodes: each episode has a generator, on the CPU, so that every device sees the same."""

    generators: Sequence[torch.Generator]  # [T]
    device: torch.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return float32 [T,*shape] from low to high."""
        drawn = torch.stack([torch.rand(shape, generator=g) for g in self.generators])
        return (low + (high - low) * drawn).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal float32 [T,*shape]."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Return int64 [T,*shape] from low to high - 1."""
        drawn = [torch.randint(low, high, shape, generator=g) for g in self.generators]
        return torch.stack(drawn).to(self.device)

    def poisson(self, rate: Tensor) -> Tensor:
        """Return counts, float32, of the rates [T,...]."""
        drawn = [torch.poisson(r, generator=g) for r, g in zip(rate.cpu(), self.generators, strict=True)]
        return torch.stack(drawn).to(self.device)


Corrupt = Callable[[Tensor, Level, Draws], Tensor]  # images [T,N,C,H,W] in [0,1] -> the same, before they are clipped


@dataclass(frozen=True)
class Kind:
    """One corruption, with the parameters that its authors published for small and for large images."""

    family: str
    corrupt: Corrupt
    cifar: Sequence[float | Level]  # of severities 1 to 5 in CIFAR-10-C (create_c/make_cifar_c.py)
    imagenet: Sequence[float | Level]  # the same in ImageNet-C (imagenet_c/corruptions.py)

    @cached_property
    def _tables(self) -> list[list[Level]]:
        return [[c if isinstance(c, tuple) else (c,) for c in table] for table in (self.cifar, self.imagenet)]

    def level(self, severity: int, side: int) -> Level:
        """Return the parameters of a severity for images of a side, in pixels.

        They are CIFAR-10-C's up to 32 pixels and ImageNet-C's from 224 on. Between the two each parameter is
        interpolated linearly in the logarithm of the side: at 84 pixels it is half of each.
        """
        share = math.log(max(SMALL, min(side, LARGE)) / SMALL) / math.log(LARGE / SMALL)
        small, large = (table[severity - 1] for table in self._tables)
        return tuple((1 - share) * a + share * b for a, b in zip(small, large, strict=True))


def grey(x: Tensor) -> Tensor:
    """Return the luminance [...,1,H,W] of images with 1 or 3 channels, by ITU-R BT.601 as OpenCV and JPEG have it."""
    if x.shape[-3] == 1:
        return x
    weight = x.new_tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    return (x * weight).sum(-3, keepdim=True)
