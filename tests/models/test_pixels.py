"""The backbone that is no net: the pixels themselves."""

import pytest
import torch

from metalab.core.errors import UserError
from metalab.models.pixels import Pixels


def test_pixels_are_20x20_of_the_whole_image():
    body = Pixels(20).build(1, 28)
    x = torch.rand(2, 1, 28, 28)
    small = torch.nn.functional.interpolate(x, (20, 20), mode="bilinear", antialias=True)
    torch.testing.assert_close(body(x), small.flatten(1)[..., None, None])
    assert not list(body.parameters())
    with pytest.raises(UserError, match=r"backbone.size=0: expected 1 pixel or more"):
        Pixels(0)
