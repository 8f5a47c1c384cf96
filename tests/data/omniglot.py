"""Omniglot's zips with drawings of our own."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from metalab.data.class_lists import class_list
from metalab.data.datasets.drawings.omniglot_splits import SPLITS

CHARACTERS = sorted(name for split in SPLITS for name in class_list(f"omniglot_vinyals_{split}"))


def drawing(number: int, drawer: int) -> bytes:
    """Return a PNG as the official ones: 105x105, 1 bit, ink black; a bar whose place tells the two numbers."""
    ink = np.ones((105, 105), bool)
    ink[number % 100 : number % 100 + 5, :60] = False
    ink[60:, 10 * drawer : 10 * drawer + 8] = False
    raw = io.BytesIO()
    Image.fromarray(ink).save(raw, "PNG")
    return raw.getvalue()


def write_zips(root: Path, characters: list[str]) -> None:
    for part, some in (("images_background", characters[:964]), ("images_evaluation", characters[964:])):
        with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
            for number, name in enumerate(some):
                for drawer in (1, 2):
                    file = f"{part}/{name}/{number + 1:04d}_{drawer:02d}.png"
                    archive.writestr(zipfile.ZipInfo(file), drawing(number, drawer))
