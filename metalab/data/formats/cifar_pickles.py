"""The pickles that CIFAR-10 and CIFAR-100 are published as, in their archive or unpacked, read without running them."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metalab.data.formats.archives import Files, found
from metalab.data.formats.layouts import Layout, SourceImage
from metalab.data.formats.safe_pickle import BROKEN, foreign, plain


@dataclass(frozen=True)
class Pickles:
    """What the files of one of the two are called, and what is called how in them."""

    folder: str
    archive: str
    meta: str  # the file with the class names
    names: str  # their key in it
    labels: str  # the key of the labels in the other files
    parts: tuple[str, ...]  # the other files
    classes: tuple[str, ...]  # as published, for comparison

    def recognise(self, root: Path) -> Layout | None:
        """Recognise the official archive, or its unpacked folder, as torchvision leaves both; no code in it is run."""
        files = found(root, self.folder, (self.archive,))
        if files is None or not {self.meta, *self.parts} <= set(files.names):
            return None

        def pictures() -> Iterator[SourceImage]:
            images, labels, shown, names = self._read(files)
            for i in np.argsort(labels, kind="stable"):
                name = names[labels[i]]
                yield SourceImage(name, name, shown[i], partial(Image.fromarray, images[i]))

        used = sorted([self.meta, *self.parts])
        stamped = [files.where] if files.where.is_file() else [files.where / name for name in used]
        return Layout("official archive", stamped, lambda: dict.fromkeys(self.classes), pictures, 60_000)

    def _read(self, files: Files) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
        """Return images uint8 [N,32,32,3], labels int64 [N], the file of each and the class names."""
        title = self.folder.removesuffix("-python").removesuffix("-batches-py")

        def read(name: str) -> Any:
            return plain(io.BytesIO(files.read(name)), files.where / name, title)

        meta, parts = read(self.meta), {name: read(name) for name in self.parts}
        try:
            names = [str(name) for name in meta[self.names]]
            images = np.concatenate([part["data"] for part in parts.values()])
            images = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = np.concatenate([part[self.labels] for part in parts.values()]).astype(np.int64)
            shown = [f"{name}/{file}" for name, part in parts.items() for file in part["filenames"]]
            if (
                images.dtype != np.uint8
                or set(names) != set(self.classes)
                or len({*map(len, (images, labels, shown))}) > 1
            ):
                raise ValueError(f"{len(names)} classes, {len(images)} images of {images.dtype}, {len(labels)} labels")
            if not 0 <= labels.min() <= labels.max() < len(names):
                raise ValueError(f"labels from {labels.min()} to {labels.max()}")
        except BROKEN as error:
            raise foreign(files.where, title, error) from error
        return images, labels, shown, names
