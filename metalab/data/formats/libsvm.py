"""The text files of LIBSVM: a line an image, its label and the values that are not zero, "3 1:-0.5 4:1"."""

import bz2
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metalab.core.errors import UserError
from metalab.data.formats.layouts import Layout, SourceImage


@dataclass(frozen=True)
class LibSVM:
    """Which files one data set of grey images has, one a part of it, and what their labels and values mean."""

    files: Mapping[str, str]  # part -> file name, packed or not with .bz2
    classes: Sequence[str]  # of the labels 1, 2, ...
    side: int  # pixels, height and width; values are row by row, in [-1, 1]

    def recognise(self, root: Path) -> Layout | None:
        """Recognise those of the files that are in root, one is enough; images are called part/number."""
        there = {part: _found(root / name) for part, name in self.files.items()}
        paths = {part: path for part, path in there.items() if path is not None}
        if not paths:
            return None

        def pictures() -> Iterator[SourceImage]:
            parts = {part: self._read(path) for part, path in paths.items()}
            for k, name in enumerate(self.classes):
                for part, (images, labels) in parts.items():
                    for i in np.flatnonzero(labels == k):
                        opens: Callable[[], Image.Image] = partial(Image.fromarray, images[i])
                        yield SourceImage(name, name, f"{part}/{i}", opens)

        return Layout("libsvm files", list(paths.values()), lambda: dict.fromkeys(self.classes), pictures)

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return uint8 [N,side,side], 0 for -1 and 255 for 1, and the number of each image's class, int64 [N]."""
        from sklearn.datasets import load_svmlight_file  # a second, which no --help should wait for

        from_one: Any = False  # indices; what sklearn's stubs take for text
        try:
            with (bz2.open if path.suffix == ".bz2" else open)(path, "rb") as file:
                values, labels = load_svmlight_file(file, n_features=self.side**2, zero_based=from_one)
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{path} is no sound libsvm file of {self.side**2} values an image ({error})") from error
        pixels = values.toarray()
        number = labels.astype(np.int64) - 1
        if not len(number) or (labels != number + 1).any() or not 0 <= number.min() <= number.max() < len(self.classes):
            raise UserError(f"{path}: its labels must be whole numbers, 1 to {len(self.classes)}. Fetch it anew")
        if not np.abs(pixels).max() <= 1:
            raise UserError(f"{path}: its values must be -1 to 1. Fetch it anew")
        images = ((pixels + 1) * 127.5).round().astype(np.uint8)
        return images.reshape(-1, self.side, self.side), number


def _found(path: Path) -> Path | None:
    packed = path.with_name(f"{path.name}.bz2")
    return packed if packed.is_file() else path if path.is_file() else None
