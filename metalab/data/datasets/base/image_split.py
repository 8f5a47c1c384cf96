"""The splits of papers that split images and not classes: their test images, and of the others some held out."""

from dataclasses import replace

import numpy as np
import torch

from metalab.core.errors import UserError
from metalab.core.interfaces import Split

HELD_OUT = 10  # of so many training images of a class one is held out for validation


def image_split(whole: Split, tested: str, split: str, seed: int) -> Split:
    """Return the train, val or test images of a data set that is whole; each split has all its classes.

    tested: what the files of the published test images begin with. `seed` draws the validation images of each class
    from the others. UserError where a class has no image for one of the three.
    """
    chosen: list[np.ndarray] = []
    published = np.array([file.startswith(tested) for file in whole.files])
    draw = np.random.default_rng(seed)
    for name, first, count in zip(whole.names, whole.first.tolist(), whole.count.tolist(), strict=True):
        place = np.arange(first, first + count)
        test, rest = place[published[place]], draw.permutation(place[~published[place]])
        held = max(1, len(rest) // HELD_OUT)
        parts = {"train": np.sort(rest[held:]), "val": np.sort(rest[:held]), "test": test}
        if empty := [each for each, images in parts.items() if not len(images)]:
            raise UserError(
                f"class {name} has {len(rest)} training images and {len(test)} test images, which leaves none for "
                f"{' and '.join(empty)}: 2 and 1 or more are needed. Fetch the data set anew"
            )
        chosen.append(parts[split])
    index, count = torch.from_numpy(np.concatenate(chosen)), torch.tensor([len(images) for images in chosen])
    return replace(
        whole,
        images=whole.images[index],
        first=count.cumsum(0) - count,
        count=count,
        files=[whole.files[i] for i in index.tolist()],
        image_ids=[whole.image_ids[i] for i in index.tolist()] if whole.image_ids else [],
        by_image=True,
    )
