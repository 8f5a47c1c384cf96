"""The map of what a classifier looked at, against a loop that is written out."""

import numpy as np
import pytest
import torch

from metalab.serving.demo.occlusion import occlusion_map, overlay, picture

pytest.importorskip("captum", reason="the extra demo is not installed")


def by_hand(weights: torch.Tensor, image: torch.Tensor, window: int, step: int) -> np.ndarray:
    """Return the mean fall of sum(weights * image) over the windows that cover each place."""
    side = image.shape[1]
    plain = image.flatten(1).float().median(1).values.round()
    fall, times = np.zeros((side, side)), np.zeros((side, side))
    starts = list(range(0, side - window, step))
    starts += [] if starts and starts[-1] + window >= side else [starts[-1] + step if starts else 0]
    for top in starts:
        for left in starts:
            covered = image.float().clone()
            covered[:, top : top + window, left : left + window] = plain[:, None, None]
            change = (weights * (image.float() - covered)).sum()
            fall[top : top + window, left : left + window] += float(change)
            times[top : top + window, left : left + window] += 1
    return fall / times


@pytest.mark.parametrize(("channels", "side"), [(1, 16), (3, 28)])
@pytest.mark.parametrize("at_once", [1, 7])
def test_the_map_is_that_of_a_loop(channels, side, at_once):
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (channels, side, side), dtype=torch.uint8, generator=draw)
    weights = torch.randn(2, channels, side, side, generator=draw)

    def logits(x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.uint8
        return torch.einsum("nchw,kchw->nk", x.float(), weights)

    found = occlusion_map(logits, image, 1, at_once).numpy()
    window = side // 5
    np.testing.assert_allclose(found, by_hand(weights[1], image, window, window // 2), rtol=1e-3, atol=0.5)


def test_red_speaks_for_and_blue_against():
    heat = np.zeros((4, 4))
    heat[0, 0], heat[3, 3] = 2.0, -1.0
    shown = overlay(np.full((1, 4, 4), 255, dtype=np.uint8), heat)
    assert shown.shape == (280, 280, 3)
    red, middle, blue = shown[0, 0].astype(int), shown[100, 100].astype(int), shown[-1, -1].astype(int)
    assert middle.tolist() == [255, 255, 255]
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 50


def test_a_flat_map_and_each_number_of_channels_are_drawn():
    assert overlay(np.zeros((3, 8, 8), dtype=np.uint8), np.zeros((8, 8))).shape == (280, 280, 3)
    colours = np.arange(3 * 300 * 300, dtype=np.uint8).reshape(3, 300, 300)
    np.testing.assert_array_equal(picture(colours), np.moveaxis(colours, 0, -1))
