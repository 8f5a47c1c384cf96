"""The backbones of the papers: images [N,C,H,W], already normalized, to features [N,D,h,w].

Each is a dataclass whose build(channels, size) returns the body. learn2learn's ConvBlock and ResNet12 are not used:
its batch norms start with a random gain, its linear layers draw from numpy's generator, which a torch seed does not
reach, and its ResNet-12 counts DropBlock's ramp on the clone that is thrown away, so that it never drops.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.core.errors import UserError
from metalab.models.conv_autograd import Conv2d
from metalab.models.layers import BatchStatNorm, convert


def check_range(key: str, values: Sequence[float], low: float, high: float = math.inf) -> None:
    """Raise UserError unless all values of a setting lie in low..high, both included."""
    for value in values:
        if not low <= value <= high:
            expected = f"{low} or more" if high == math.inf else f"{low} to {high}"
            raise UserError(f"backbone.{key}={value:g}: expected {expected}")


class ConvBlock(nn.Sequential):
    """3x3 convolution, batch norm, ReLU, and 2x2 max-pooling or a stride of 2 in its place."""

    def __init__(self, inputs: int, filters: int, stride: int, pool: bool, padding: int = 1) -> None:
        conv = Conv2d(inputs, filters, 3, stride=stride, padding=padding)
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        super().__init__(conv, BatchStatNorm(filters))
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self
        return norm(conv(x), then_pool=True) if self.pool else norm(conv(x)).relu()


@dataclass(frozen=True)
class Conv4:
    """Four convolution blocks (Vinyals et al. 2016, sec. 4.1; MAML, Finn et al. 2017, sec. 5.2).

    pooled: how many of the four blocks, from the first, max-pool (ProtoNet, Matching and MAML on miniImageNet 4,
    Relation 2). strided: stride 2 in the place of pooling (MAML on Omniglot). mean: average over what is left.
    unpadded: how many of them, from the first, convolve without padding (Relation networks' code: 2).
    """

    filters: int
    pooled: int
    strided: bool
    mean: bool
    unpadded: int = 0

    def __post_init__(self) -> None:
        check_range("filters", [self.filters], 1)
        check_range("pooled", [self.pooled], 0, 4)
        check_range("unpadded", [self.unpadded], 0, 4)
        if self.strided and self.pooled:
            raise UserError(
                f"backbone.strided=true with backbone.pooled={self.pooled}: a block pools or strides, not both; "
                "type backbone.pooled=0 or backbone.strided=false"
            )

    def build(self, channels: int, size: int) -> nn.Module:
        if size < self._least():
            raise UserError(
                f"images of {size}x{size} vanish after {self.pooled} poolings"
                f"{f' and {self.unpadded} unpadded convolutions' if self.unpadded else ''}; "
                f"give at least {self._least()}"
            )
        stride = 2 if self.strided else 1
        blocks = [
            ConvBlock(
                channels if i == 0 else self.filters, self.filters, stride, i < self.pooled, int(i >= self.unpadded)
            )
            for i in range(4)
        ]
        return nn.Sequential(*blocks, *([nn.AdaptiveAvgPool2d(1)] if self.mean else []))

    def _least(self) -> int:
        """Return the least side of an image of which a position is left, block by block from the last one."""
        side = 1
        for i in reversed(range(4)):
            side = 2 * side if i < self.pooled else 2 * side - 1 if self.strided else side
            side += 2 * (i < self.unpadded)
        return side


class DropBlock(nn.Module):
    """Drop square blocks of a feature map in training (Ghiasi et al. 2018, algorithm 1), without data-dependent sizes.

    rate: share of the map that is dropped; a map smaller than the block is dropped by single positions.
    """

    def __init__(self, rate: float, block: int) -> None:
        super().__init__()
        self.rate, self.block = rate, block

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        h, w = x.shape[-2:]
        block = self.block if min(h, w) >= self.block else 1
        gamma = self.rate / block**2 * h * w / ((h - block + 1) * (w - block + 1))
        seeds = (torch.rand_like(x[..., : h - block + 1, : w - block + 1]) < gamma).to(x.dtype)
        dropped = F.max_pool2d(F.pad(seeds, [block - 1] * 4), block, stride=1)
        kept = 1 - dropped
        return x * kept * kept.numel() / kept.sum().clamp(min=1)


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions with a 1x1 short cut, then 2x2 max-pooling (ResNet-12 of MetaOptNet, Lee et al. 2019)."""

    def __init__(self, inputs: int, filters: int, slope: float, drop: nn.Module) -> None:
        super().__init__()

        def conv(i: int, kernel: int) -> nn.Sequential:
            layer = Conv2d(i, filters, kernel, padding=kernel // 2, bias=False)
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="leaky_relu")
            return nn.Sequential(layer, BatchStatNorm(filters))

        act = nn.LeakyReLU(slope) if slope else nn.ReLU()
        self.main = nn.Sequential(conv(inputs, 3), act, conv(filters, 3), act, conv(filters, 3))
        self.short = conv(inputs, 1)
        self.after = nn.Sequential(act, nn.MaxPool2d(2), drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.main(x) + self.short(x))


@dataclass(frozen=True)
class ResNet12:
    """ResNet-12 of MetaOptNet (Lee et al. 2019, sec. 4.1): DropBlock in the last two blocks.

    mean: average over the positions that are left, as most others do; MetaOptNet's code takes all of them as features
    (16,000 at 84x84). The drop rates are constant; its code ramps them up over its first 40,000 batches.
    """

    filters: tuple[int, int, int, int]
    slope: float
    dropout: float
    dropblock: float
    block: int
    mean: bool = True

    def __post_init__(self) -> None:
        check_range("filters", self.filters, 1)
        check_range("dropout", [self.dropout], 0, 0.99)
        check_range("dropblock", [self.dropblock], 0, 0.99)
        check_range("block", [self.block], 1)

    def build(self, channels: int, size: int) -> nn.Module:
        if size < 16:
            raise UserError(f"images of {size}x{size} vanish after 4 poolings; backbone=resnet12 needs at least 16")
        drops = [nn.Dropout(self.dropout) for _ in range(2)] + [DropBlock(self.dropblock, self.block) for _ in range(2)]
        inputs = [channels, *self.filters]
        blocks = [ResidualBlock(i, f, self.slope, d) for i, f, d in zip(inputs, self.filters, drops, strict=False)]
        return nn.Sequential(*blocks, *([nn.AdaptiveAvgPool2d(1)] if self.mean else []))


@dataclass(frozen=True)
class ResNet18:
    """torchvision's ResNet-18 (He et al. 2016) from scratch, its batch norms converted to BatchStatNorm.

    stem: large, a 7x7 convolution of stride 2 and 3x3 max-pooling, for photographs (its table 1); small, a 3x3
    convolution of stride 1 and no pooling, for images of some 32 pixels (as its sec. 4.2 begins on CIFAR-10).
    """

    stem: Literal["large", "small"] = "large"

    def build(self, channels: int, size: int) -> nn.Module:
        factor = 32 if self.stem == "large" else 8
        if size < factor:
            also = ", or type backbone.stem=small" if self.stem == "large" and size >= 8 else ""
            raise UserError(
                f"backbone=resnet18 divides the image by {factor}: {size}x{size} is too small, give at least {factor}"
                f"{also}"
            )
        from torchvision.models import resnet18

        net = resnet18(weights=None)
        if self.stem == "small":
            net.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            net.maxpool = nn.Identity()  # type: ignore[assignment]
        elif channels != 3:
            net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        if self.stem == "small" or channels != 3:
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        return convert(nn.Sequential(*list(net.children())[:-1]))  # all but the classifier; ends in average pooling


@dataclass(frozen=True)
class FC:
    """Fully connected layers with batch norm and ReLU (MAML, Finn et al. 2017, sec. 5.2: 256-128-64-64)."""

    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        check_range("widths", self.widths, 1)
        if not self.widths:
            raise UserError("backbone.widths=[]: expected the units of one layer or more, as in backbone.widths=[64]")

    def build(self, channels: int, size: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = channels * size * size
        for width in self.widths:
            linear = nn.Linear(inputs, width)
            nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(linear.bias)
            layers += [linear, BatchStatNorm(width), nn.ReLU()]
            inputs = width
        return nn.Sequential(*layers, nn.Unflatten(1, (inputs, 1, 1)))
