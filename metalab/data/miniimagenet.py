"""miniImageNet (Vinyals et al., 2016): 100 classes of ImageNet, 600 images each, Ravi and Larochelle's split."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metalab.data.layouts import SPLITS, Layout, Picture, class_folders, csv_images, packed, pickles
from metalab.data.records import Record
from metalab.data.sources import class_list, fingerprint, given_folder
from metalab.data.store import Store, cache_folder, existing, prepared
from metalab.errors import UserError
from metalab.interfaces import Split

IMAGES = 600  # a class
LAYOUTS = (
    "  train/ val/ test/, in each a folder a class: train/n01532829/*.jpg (or all 100 class folders side by side)\n"
    "  train.csv val.csv test.csv (columns filename,label) and images/*.jpg\n"
    "  mini-imagenet-cache-train.pkl, -validation.pkl and -test.pkl, learn2learn's\n"
    "  *.npz, each JPEG files packed one after another: blob, offsets, labels, class_names, files"
)
log = logging.getLogger("metalab.data")


@dataclass(frozen=True)
class MiniImageNet:
    """Serve miniImageNet as [3,size,size], 64/16/20 classes."""

    root: str | None = None
    cache: str | None = None
    size: int = 84

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"data.size={self.size} is out of range: 1 pixel or more, 84 in all papers: data.size=84.")

    def load(self, split: str) -> Split:
        """Return the train, val or test classes; UserError with the layouts data.root may have, or what is wrong."""
        loaded = self._store.split(split)
        notes = [self._store.recipe["note"]]
        whole = IMAGES * len(loaded.ids)
        if not bool((loaded.count == IMAGES).all()):
            notes.append(f"{len(loaded.files):,} images instead of {whole:,}")
        return replace(loaded, note="; ".join(note for note in notes if note))

    @cached_property
    def _store(self) -> Store:
        settings: dict[str, Any] = {"data": "miniimagenet", "protocol": "ravi", "size": self.size}
        folder = cache_folder(self.cache) / f"miniimagenet-ravi-{self.size}"
        if self.root is None:
            if store := existing(folder, settings):
                return store
            raise UserError(
                "miniImageNet has to be given once, for its images may not be passed on: no address offers it to all. "
                f"{folder} holds none yet.\nType data.root=/path/to/a/folder, which holds one of\n{LAYOUTS}"
            )
        root = given_folder(self.root)
        layout = _recognised(root)
        source = {"layout": layout.name, "source": fingerprint(root, layout.files), "note": layout.note}
        return prepared(folder, {**settings, **source}, lambda: _records(root, layout, self.size))


def _recognised(root: Path) -> Layout:
    for recognise in (csv_images, class_folders, pickles, packed):
        if layout := recognise(root):
            return layout
    raise UserError(f"data.root={root} is not laid out as miniImageNet. It should hold one of\n{LAYOUTS}")


def _records(root: Path, layout: Layout, size: int) -> Iterator[Record]:
    official = {wnid: split for split in SPLITS for wnid in class_list(f"miniimagenet_ravi_{split}")}
    log.info("Reading %s as %s.", root, layout.name)
    _check(root, layout.classes(), official)
    pictures = layout.pictures()
    with ThreadPoolExecutor(2) as pool:  # Pillow decodes beside the interpreter; a few at a time, memory stays flat
        while some := list(islice(pictures, 256)):
            for picture, image in zip(some, pool.map(lambda one: _decoded(one, root, size), some), strict=True):
                yield Record(image, f"imagenet:{picture.wnid}", picture.shown, official[picture.wnid], picture.file)


def _check(root: Path, found: dict[str, str | None], official: dict[str, str]) -> None:
    """Raise UserError unless these are the 100 classes, each in its own split where the layout names one."""
    wrong = [f"{wnid} does not belong to miniImageNet" for wnid in found if wnid not in official]
    for wnid, split in official.items():
        if wnid not in found:
            wrong.append(f"{wnid} of {split} is missing")
        elif found[wnid] not in (None, split):
            wrong.append(f"{wnid} stands in {found[wnid]} and belongs to {split}")
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"data.root={root} does not hold Ravi and Larochelle's 64/16/20 classes: {'; '.join(wrong[:5])}{more}. "
            "For other classes type data=folder data.root=... instead."
        )


def _decoded(picture: Picture, root: Path, size: int) -> np.ndarray:
    """Return uint8 [3,size,size], scaled without regard to its proportions, as all papers do."""
    try:
        image = picture.open().convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{root / picture.file} cannot be read ({error}); a benchmark has to be whole. Fetch this file anew."
        ) from error
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).transpose(2, 0, 1)
