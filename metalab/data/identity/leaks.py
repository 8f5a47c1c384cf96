"""What a data set leaks: a class in two splits, the same image twice, an image and its near copy in two splits."""

import hashlib
from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

import imagehash
import numpy as np
import torch
from PIL import Image

from metalab.core.interfaces import Split, UnlabelledImages
from metalab.data.identity.class_ids import IMAGE, OWN, one_name

# Hamming distance, in bits of 64, up to which two images are shown as near copies. Chosen by looking at CIFAR-FS's
# pairs across splits: at 0 and 2 all 8 that are not identical are copies, at 4 there are none, at 6 none of 8 is.
NEAR = 4


UNLABELLED = "unlabelled"  # what a target's images are called among the splits


class Place(NamedTuple):
    """One image of a data set."""

    split: str
    index: int  # in the split
    class_id: str
    file: str


class Pair(NamedTuple):
    """Two images in different splits that look alike."""

    distance: int  # bits of 64 in which their perceptual hashes differ
    one: Place
    other: Place


class Leaks(NamedTuple):
    """All that was found."""

    classes: dict[str, list[str]]  # class -> the splits that have it: two or more, or one in which two folders have it
    same: list[list[Place]]  # images with the same pixels
    near: list[Pair]  # nearest first
    unreadable: list[str]  # files that are left out

    @property
    def across(self) -> dict[str, list[str]]:
        """The classes in two splits."""
        return {name: splits for name, splits in self.classes.items() if len(splits) > 1}


def unlabelled_split(target: UnlabelledImages) -> Split:
    """Return a target's images as a split of one class without a name, to be compared with the others."""
    count = torch.tensor([len(target.images)])
    first, name = torch.zeros_like(count), f"{target.name}, without labels"
    return Split(
        target.images, first, count, [name], [name], files=target.image_ids, image_ids=target.image_ids, by_image=True
    )


def search(splits: dict[str, Split], excused: tuple[str, ...] = (), unreadable: Iterable[str] = ()) -> Leaks:
    """Compare all images of all splits with one another, as they are in the store.

    Classes of the user's own that have one name are one class, too, but where the name begins with one of `excused`.
    """
    places = {name: _places(name, split) for name, split in splits.items()}
    same: dict[bytes | str, list[Place]] = {}  # by the pixels in the store, and by the id
    own: set[bytes | str] = set()  # ids by which data=folder refuses copies, a benchmark's images among them
    hashes = {}
    for name, split in splits.items():
        pixels = split.images.numpy()
        for place in places[name]:
            digest = hashlib.blake2b(np.ascontiguousarray(pixels[place.index]).data, digest_size=16).digest()
            same.setdefault(digest, []).append(place)
            kind, _, image = (split.image_ids[place.index] if split.image_ids else "").rpartition(":")
            same.setdefault(image, []).append(place)
            own |= {image} if kind == IMAGE[:-1] else set()
        hashes[name] = np.stack([_hash(pixels[place.index]) for place in places[name]])
    counted = (found for key, found in same.items() if len(found) > 1 and (isinstance(key, bytes) or key in own))
    twice = list({tuple(found): found for found in counted}.values())
    near = []
    for one, other in combinations(splits, 2):
        near += [
            Pair(distance, places[one][i], places[other][k]) for distance, i, k in _close(hashes[one], hashes[other])
        ]
    known = {(a, b) for found in twice for a, b in combinations(found, 2)}
    near = sorted(pair for pair in near if (pair.one, pair.other) not in known)
    return Leaks(_classes(splits, excused), twice, near, list(unreadable))


def _classes(splits: dict[str, Split], excused: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the classes that stand twice; one of the user's own, whose id says nothing to people, by its names.

    Where the data splits images, all its classes stand in each split, and that is no leak.
    """
    splits = {name: split for name, split in splits.items() if name != UNLABELLED}
    if any(split.by_image for split in splits.values()):
        return {}
    homes: dict[tuple[bool, str], list[tuple[str, str]]] = {}  # whether by name, id or name -> each split and name
    for split, held in splits.items():
        for class_id, name in zip(held.ids, held.names, strict=True):
            by_name = class_id.startswith(OWN) and not name.startswith(excused)
            for key in ((False, class_id), (True, one_name(name)))[: 1 + by_name]:
                homes.setdefault(key, []).append((split, name))
    found = {}
    for (by_name, key), places in homes.items():
        own, names = not by_name and key.startswith(OWN), dict.fromkeys(name for _, name in places)
        where = list(dict.fromkeys(split for split, _ in places))
        if len(where) > 1 or (own and len(places) > 1):
            found[" = ".join(names) if own or by_name else key] = where
    return found


def pairs(same: list[list[Place]]) -> list[tuple[Place, Place]]:
    """Return the pairs of images with the same pixels."""
    return [pair for found in same for pair in combinations(found, 2)]


def _places(name: str, split: Split) -> list[Place]:
    """Return each image that is in a class; the rotations of one are the same image."""
    owner = {}
    for class_id, first, count in zip(split.ids, split.first.tolist(), split.count.tolist(), strict=True):
        for i in range(first, first + count):
            owner.setdefault(i, class_id)
    files = split.files or [f"image {i}" for i in range(len(split.images))]
    return [Place(name, i, class_id, files[i]) for i, class_id in sorted(owner.items())]


def _hash(pixels: np.ndarray) -> np.ndarray:
    """Return the 64 bits of an image's perceptual hash as -1 and 1, from uint8 [C,H,W]."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
    return np.where(imagehash.phash(image).hash.ravel(), np.float32(1), np.float32(-1))


def _close(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int, int]]:
    """Return distance and indices of the pairs of hashes, float32 [N,64] and [M,64], that are NEAR."""
    found = []
    for start in range(0, len(a), 1024):  # not all at once: that would be gigabytes
        agreement = a[start : start + 1024] @ b.T
        i, k = np.nonzero(agreement >= 64 - 2 * NEAR)
        distance = (64 - agreement[i, k]).astype(int) // 2
        found += zip(distance.tolist(), (start + i).tolist(), k.tolist(), strict=True)
    return found
