"""The relation module of Relation networks: two feature maps, joined, to how much they belong together."""

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
