"""A toy data set on its way into a store."""

from collections.abc import Iterator

import numpy as np

from metalab.data.storage.writer import Record

RECIPE = {"data": "toy", "size": 5}


def records(classes: int = 3, images: int = 4) -> Iterator[Record]:
    for c in range(classes):  # the splits come mixed, the classes whole
        split = "train" if c % 2 == 0 else "val"
        for i in range(images):
            yield Record(np.full((1, 5, 5), 10 * c + i, np.uint8), f"toy:{c}", f"class {c}", split, f"{c}/{i}.png")


def never() -> Iterator[Record]:
    raise AssertionError("the store was there and sound, and yet it was built again")
