"""Where a classifier looks: what happens to a class's logit when a part of the image is covered."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

PARTS = 5  # windows across an image
RAISES, LOWERS = (214, 39, 40), (31, 119, 180)  # colours: what speaks for the class, and what speaks against it
SHOWN = 280  # pixels of a picture on the page, at least


def occlusion_map(logits: Callable[[Tensor], Tensor], image: Tensor, target: int, at_once: int) -> Tensor:
    """Return how much each place of an image speaks for a class (Zeiler and Fergus 2014, sec. 4.2).

    A window of a fifth of the side slides by half of itself and is filled with the median of each channel: the
    background of a drawing, a middle colour of a photograph.

    Args:
        logits: from uint8 [N,C,H,W] to [N,K].
        image: uint8 [C,H,W].
        target: the class.
        at_once: covered images that are classified together.

    Returns:
        The logit less that of the image with the place covered [H,W], a mean over the windows that cover it.
    """
    from captum.attr import Occlusion

    channels, side = image.shape[0], min(image.shape[1:])
    window = max(1, side // PARTS)
    step = max(1, window // 2)
    plain = image.flatten(1).float().median(1).values.round()
    found = Occlusion(lambda x: logits(x.round().to(torch.uint8))).attribute(
        image[None].float(),
        sliding_window_shapes=(channels, window, window),
        strides=(channels, step, step),
        baselines=plain.view(1, -1, 1, 1).expand(1, *image.shape),
        target=target,
        perturbations_per_eval=at_once,
    )
    return found[0, 0].detach().cpu()  # the same in every channel


def picture(pixels: np.ndarray) -> np.ndarray:
    """Return an image, uint8 [C,H,W], as a page shows it: [H,W,3], small ones enlarged by a whole number."""
    shown = np.broadcast_to(np.moveaxis(pixels, 0, -1), (*pixels.shape[1:], 3))
    times = max(1, -(-SHOWN // min(pixels.shape[1:])))
    return np.ascontiguousarray(shown.repeat(times, 0).repeat(times, 1))


def overlay(pixels: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Return an image, uint8 [C,H,W], in pale grey under a map [H,W]: red speaks for the class, blue against it."""
    grey = 255 - 0.6 * (255 - pixels.mean(0))
    most = max(float(np.abs(importance).max()), 1e-12)
    weight = (0.75 * np.abs(importance) / most)[None]
    colour = np.where(importance > 0, np.reshape(RAISES, (3, 1, 1)), np.reshape(LOWERS, (3, 1, 1)))
    return picture(((1 - weight) * grey + weight * colour).round().astype(np.uint8))
