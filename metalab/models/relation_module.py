"""Small networks behind feature maps: how much two belong together (Relation networks), how wide one is (TPN)."""

import math

from torch import Tensor, nn

from metalab.models.backbones import ConvBlock


def map_shape(body: nn.Module, features: int) -> tuple[int, int]:
    """Return channels and side of the map [D,h,h] that a body of convolutions flattens to so many features."""
    channels = [m.out_channels for m in body.modules() if isinstance(m, nn.Conv2d)][-1:] or [features]
    return channels[0], math.isqrt(features // channels[0])


class Relation(nn.Module):
    """Two convolution blocks and two linear layers (Sung et al. 2018, fig. 2): [P,2D,h,h] to logits [P,1].

    A block max-pools where the map is 2x2 or more. The paper's score is the logit's sigmoid.
    """

    def __init__(self, channels: int, side: int, hidden: int) -> None:
        super().__init__()
        sides = (side, max(side // 2, 1))
        blocks = [ConvBlock(i, channels, 1, s > 1) for i, s in zip((2 * channels, channels), sides, strict=True)]
        left = max(sides[1] // 2, 1)
        first, last = nn.Linear(channels * left**2, hidden), nn.Linear(hidden, 1)
        self.net = nn.Sequential(*blocks, nn.Flatten(), first, nn.ReLU(), last)

    def forward(self, pairs: Tensor) -> Tensor:
        return self.net(pairs)


class Scale(nn.Module):
    """Two convolution blocks, two linear layers (Liu et al. 2019, appendix A): feature maps [N,D,h,h] to scales [N,1].

    As their code (models.py:53-88): the second block has one channel, and each pools with a border of 1, so that a map
    of 5x5 ends at 2x2. A scale starts near 1.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        blocks = [ConvBlock(channels, outputs, 1, False) for outputs in (channels, 1)]
        self.blocks, self.pool = nn.ModuleList(blocks), nn.MaxPool2d(2, padding=1)
        left = (side // 2 + 1) // 2 + 1  # (h + 2 - 2) // 2 + 1, twice
        last = nn.Linear(8, 1)
        nn.init.ones_(last.bias)  # near 0 every image would be far from all others, and nothing had a gradient
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(left**2, 8), nn.ReLU(), last)

    def forward(self, maps: Tensor) -> Tensor:
        for block in self.blocks:
            maps = self.pool(block(maps))
        return self.net(maps)
