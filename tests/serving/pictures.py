"""Folders of pictures: the tiny data's images as files, a folder a class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from metalab.core.interfaces import Split


def write_classes(split: Split, folder: Path, classes: Sequence[int], images: slice | Sequence[slice]) -> list[str]:
    """Write images of some classes of a split as PNG, folder/CLASS/NUMBER.png; return the names of the classes."""
    parts = [images] * len(classes) if isinstance(images, slice) else images
    names = []
    for k, part in zip(classes, parts, strict=True):
        first, count = int(split.first[k]), int(split.count[k])
        names.append(f"class{k:02}")
        (folder / names[-1]).mkdir(parents=True)
        for i in range(first, first + count)[part]:
            pixels = split.images[i].numpy()
            picture = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
            Image.fromarray(picture).save(folder / names[-1] / f"{i - first:02}.png")
    return names


def write_patterns(folder: Path, kinds: Sequence[int], images: range, classes: bool = True) -> list[str]:
    """Write pictures that even a net of a few steps tells apart, 16x16 grey: bars of a kind's direction and width.

    folder/KIND/NUMBER.png, or without class folders folder/KIND-NUMBER.png; return the names of the kinds.
    """
    at = np.arange(16)
    for kind in kinds:
        (folder / f"kind{kind}" if classes else folder).mkdir(parents=True, exist_ok=True)
        for i in images:
            draw = np.random.default_rng(1000 * kind + i)
            bars = ((at + draw.integers(2)) // (1 + kind // 2)) % 2 * 200.0
            picture = np.broadcast_to(bars if kind % 2 else bars[:, None], (16, 16)) + draw.normal(20, 8, (16, 16))
            path = folder / f"kind{kind}" / f"{i:02}.png" if classes else folder / f"kind{kind}-{i:02}.png"
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)
    return [f"kind{kind}" for kind in kinds]
