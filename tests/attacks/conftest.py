"""A small net that attacks are tried on."""

import pytest
import torch
from torch import nn

from metalab.attacks.losses import cross_entropy
from metalab.core.interfaces import Batch


@pytest.fixture(scope="module")
def trained(tiny) -> tuple[nn.Module, Batch]:
    """A small net that knows five classes of the tiny data, and images of them."""
    torch.manual_seed(0)
    split = tiny["train"]
    x = split.images[: 5 * 12].float() / 255
    y = torch.arange(5).repeat_interleave(12)
    net = nn.Sequential(nn.Conv2d(1, 12, 3, 2), nn.ReLU(), nn.Conv2d(12, 24, 3, 2), nn.ReLU(), nn.Flatten())
    net = nn.Sequential(*net, nn.Linear(24 * 9, 5))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(net(x), y).mean().backward()
        optimizer.step()
    assert (net(x).argmax(1) == y).float().mean() > 0.95
    return net, Batch(x[::2], y[::2], x[:0])
