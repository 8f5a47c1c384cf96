"""Folders of pictures, and data=folder on them."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from metalab.core.errors import UserError
from metalab.data.datasets.folder import Folder

SPLITS = ("train", "val", "test")


def picture(path, seed, size=(20, 14), mode="RGB"):
    """Write a picture of noise, another one for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def tree(root, classes=10, images=5, offset=0):
    for c in range(classes):
        for i in range(images):
            picture(root / f"class{c:02d}" / f"{i}.png", offset + 100 * c + i)


def folder(root, **changed):
    cache = None if root is None else str(root.parent / "cache")
    settings: dict[str, Any] = {"root": root and str(root), "cache": cache, "size": 12, "channels": 3}
    settings |= {"ratios": [0.64, 0.16, 0.20], "seed": 0, "strict": False} | changed
    return Folder(**settings)


def load(root, **changed):
    data = folder(root, **changed)
    return {split: data.load(split) for split in SPLITS}


def load_named(root, **changed):
    found = {}
    for split in load(root, **changed).values():
        found |= dict(zip(split.names, split.count.tolist(), strict=True))
    return found


def refusal(root, **changed):
    with pytest.raises(UserError) as error:
        folder(root, **changed).load("train")
    return str(error.value)
