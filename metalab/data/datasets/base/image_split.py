"""The splits of papers that split images and not classes: their test images, and of the others some held out."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from metalab.config.validate import suggest
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.class_lists import SPLITS
from metalab.data.sampling.stratified import stratified_parts

HELD_OUT = 10  # of so many training images of a class one is held out for validation
DRAWN = (0.72, 0.08, 0.2)  # shares of train, val and test where nobody published which images are tested


def image_split(whole: Split, tested: str | tuple[str, ...], split: str, seed: int) -> Split:
    """Return the train, val or test images of a data set that is whole; each split has all its classes.

    tested: what the files of the published test images begin with, one of several. `seed` draws the validation images
    of each class from the others. UserError where a class has no image for one of the three.
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
    return replace(with_images(whole, chosen), by_image=True)


def drawn_image_split(whole: Split, strata: Sequence[str], split: str, seed: int) -> Split:
    """Return the train, val or test images of a data set whose authors published no test images.

    Args:
        whole: all images of all classes.
        strata: a word an image [N], as its domain: of each word in each class `seed` draws a fifth for the test, and a
            tenth of the rest for validation.
        split: train, val or test.
        seed: of the draw, which depends on nothing but the order of the images.

    Raises:
        UserError: where a class has fewer than three images of a word.
    """
    classes = np.repeat(np.arange(len(whole.ids)), whole.count.numpy())
    words, word = np.unique(np.asarray(strata), return_inverse=True)
    cells, cell, images = np.unique(classes * len(words) + word, return_inverse=True, return_counts=True)
    if (images < 3).any():
        few = int(images.argmin())
        k, at = divmod(int(cells[few]), len(words))
        raise UserError(f"class {whole.names[k]} has {images[few]} images of {words[at]}: 3 or more are needed")
    part = stratified_parts(cell, np.arange(len(cell)), DRAWN, seed) == SPLITS.index(split)
    return replace(
        with_images(whole, [np.flatnonzero(part & (classes == k)) for k in range(len(whole.ids))]), by_image=True
    )


def images_where(split: Split, kept: Callable[[str], bool], why: str) -> Split:
    """Return the split with the images whose file is kept; UserError, which says why, where a class loses all."""
    mask = np.array([kept(file) for file in split.files])
    ends = zip(split.first.tolist(), (split.first + split.count).tolist(), strict=True)
    chosen = [first + np.flatnonzero(mask[first:end]) for first, end in ends]
    if empty := [name for name, images in zip(split.names, chosen, strict=True) if not len(images)]:
        raise UserError(f"{why}: class {empty[0]} has no image left. Fetch the data set anew")
    return with_images(split, chosen)


def classes_named(whole: Split, names: Sequence[str]) -> Split:
    """Return the split with the classes of these names alone; UserError for a name that there is not, or one alone."""
    if unknown := [name for name in names if name not in whole.names]:
        raise UserError(f"data.only: there is no class {unknown[0]}.{suggest(unknown[0], whole.names)}")
    kept = [k for k, name in enumerate(whole.names) if name in names]
    if len(kept) < 2:
        raise UserError(f"data.only={list(names)}: a classifier needs 2 classes or more")
    ends = whole.first + whole.count
    chosen = [np.arange(int(whole.first[k]), int(ends[k])) for k in kept]
    own = replace(whole, ids=[whole.ids[k] for k in kept], names=[whole.names[k] for k in kept])
    return with_images(own, chosen)


def with_images(whole: Split, chosen: Sequence[np.ndarray]) -> Split:
    """Return the split with these of its images [n] of each class, by their indices."""
    index, count = torch.from_numpy(np.concatenate(chosen)), torch.tensor([len(images) for images in chosen])
    return replace(
        whole,
        images=whole.images[index],
        first=count.cumsum(0) - count,
        count=count,
        files=[whole.files[i] for i in index.tolist()],
        image_ids=[whole.image_ids[i] for i in index.tolist()] if whole.image_ids else [],
    )
