"""The idx files that MNIST and its kin are published as, gzipped or not: a few numbers of shape, then the bytes."""

import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from PIL import Image

from metalab.core.errors import UserError
from metalab.data.formats.layouts import Layout, SourceImage


@dataclass(frozen=True)
class Idx:
    """Where the four files of one data set may lie and what their labels mean."""

    images: str  # "{}-images-idx3-ubyte", in which {} is the part
    labels: str
    parts: tuple[str, ...]
    classes: tuple[str, ...]  # label 0, 1, ...
    folders: tuple[str, ...]  # below data.root, as torchvision makes them
    packed: str = ""  # a zip in data.root that holds the gzipped files
    lying: bool = False  # rows and columns are exchanged, as in EMNIST

    def recognise(self, root: Path) -> Layout | None:
        """Recognise the files, with or without .gz, in root or where torchvision puts them, or in their zip."""
        names = [form.format(part) for part in self.parts for form in (self.images, self.labels)]
        if self.packed and (root / self.packed).is_file():
            return self._layout([root / self.packed], partial(_from_zip, root / self.packed), names)
        for folder in (root / name for name in ("", *self.folders)):
            for suffix in ("", ".gz"):
                paths = [folder / f"{name}{suffix}" for name in names]
                if all(path.is_file() for path in paths):
                    return self._layout(
                        paths, lambda name, at=folder, end=suffix: _from_file(at / f"{name}{end}"), names
                    )
        return None

    def _layout(self, files: list[Path], read: Callable[[str], np.ndarray], names: Sequence[str]) -> Layout:
        def pictures() -> Iterator[SourceImage]:
            arrays = [read(name) for name in names]
            images, labels = arrays[::2], arrays[1::2]
            for part, x, y in zip(self.parts, images, labels, strict=True):
                if x.ndim != 3 or y.ndim != 1 or len(x) != len(y) or (len(y) and int(y.max()) >= len(self.classes)):
                    raise UserError(
                        f"{files[0].parent}: {part} has images {x.shape} and labels {y.shape}: fetch it anew."
                    )
            for k, name in enumerate(self.classes):
                for part, x, y in zip(self.parts, images, labels, strict=True):
                    for i in np.flatnonzero(y == k):
                        image = x[i].T if self.lying else x[i]
                        yield SourceImage(
                            name, name, f"{part}/{i}", partial(Image.fromarray, np.ascontiguousarray(image))
                        )

        return Layout("idx files", files, lambda: dict.fromkeys(self.classes), pictures)


def _from_file(path: Path) -> np.ndarray:
    return _array(path.read_bytes(), path)


def _from_zip(path: Path, name: str) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = next(each for each in archive.namelist() if each.endswith(f"/{name}.gz"))
            return _array(archive.read(inside), path / inside)
    except (zipfile.BadZipFile, zlib.error, EOFError, StopIteration) as error:
        raise UserError(f"{path} is no sound zip file with {name}.gz ({error}). Fetch it anew.") from error


def _array(raw: bytes, where: Path) -> np.ndarray:
    """Return the array of uint8 that an idx file holds."""
    try:
        if where.suffix == ".gz":
            raw = gzip.decompress(raw)
        if raw[:3] != b"\0\0\x08":
            raise ValueError("it does not begin as one")
        shape = np.frombuffer(raw, ">i4", raw[3], 4).tolist()
        if len(raw) != 4 + 4 * raw[3] + prod(shape):
            raise ValueError(f"{len(raw):,} bytes for {shape}")
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise UserError(f"{where} is no sound idx file ({error}). Fetch it anew; nothing of it was used.") from error
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
