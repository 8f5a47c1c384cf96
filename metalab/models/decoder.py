"""The decoder of an autoencoder: features back to images."""

import torch.nn.functional as F
from torch import Tensor, nn

from metalab.core.errors import UserError
from metalab.models.conv_autograd import Conv2d

BASE = 7  # side of the map that the features are spread to


class Decoder(nn.Module):
    """A linear layer to a map of 7x7 and three convolutions, each on a larger map: features [N,D] to images in [0,1].

    forward(features, like) makes images of the size of like [N,C,H,W].
    """

    def __init__(self, features: int, width: int, channels: int) -> None:
        super().__init__()
        self.spread = nn.Linear(features, width * BASE**2)
        self.convs = nn.ModuleList(Conv2d(width, out, 3, padding=1) for out in (width, width, channels))

    def forward(self, features: Tensor, like: Tensor) -> Tensor:
        maps = self.spread(features).unflatten(1, (-1, BASE, BASE))
        for conv, smaller in zip(self.convs, (4, 2, 1), strict=True):
            size = [max(side // smaller, 1) for side in like.shape[-2:]]
            maps = conv(F.interpolate(maps.relu(), size=size, mode="bilinear", align_corners=False))
        return maps.sigmoid()


def input_channels(body: nn.Module) -> int:
    """Return the channels of the images that a body of convolutions takes; UserError where it has none."""
    found = [m.in_channels for m in body.modules() if isinstance(m, nn.Conv2d)]
    if not found:
        raise UserError("algo=autoencoder trains a backbone of convolutions and this one has none; type backbone=conv4")
    return found[0]
