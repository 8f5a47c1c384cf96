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
