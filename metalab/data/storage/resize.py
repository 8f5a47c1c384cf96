"""Images of one size and number of channels made those of another."""

import logging
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.core.interfaces import Split

logger = logging.getLogger("metalab")


def resize_split(split: Split, channels: int, size: int, why: str = "as the run was trained on") -> Split:
    """Return the split with its images made [channels,size,size], as a net trained on other images needs them."""
    images = split.images
    if images.shape[1:] == (channels, size, size):
        return split
    note = f"images {list(images.shape[1:])} made {[channels, size, size]}, {why}"
    logger.info(note)
    known = split.support
    return replace(
        split,
        images=resize_images(images, channels, size),
        support=None if known is None else replace(known, images=resize_images(known.images, channels, size)),
        note="; ".join(filter(None, [split.note, note])),
    )


def resize_images(images: Tensor, channels: int, size: int) -> Tensor:
    """Return uint8 [N,C,H,W] images as uint8 [N,channels,size,size]; as they are where they are so."""
    if images.shape[1:] == (channels, size, size):
        return images
    grey = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601, as Pillow's convert("L")
    made = []
    for chunk in images.split(512):
        x = chunk.float()
        if x.shape[1] != channels:
            x = (x * grey).sum(1, keepdim=True) if channels == 1 else x.expand(-1, channels, -1, -1)
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        made.append(x.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(made)
