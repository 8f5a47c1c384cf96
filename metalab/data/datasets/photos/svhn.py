"""SVHN (Netzer et al., 2011): house numbers in street views, cut to one digit each."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from metalab.core.errors import UserError
from metalab.data.datasets.base.class_split import ClassSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.download import Published
from metalab.data.formats.layouts import Layout, SourceImage
from metalab.data.formats.matlab import arrays

DIGITS = tuple("0123456789")
SUMS = {"train": "e26dedcc434d2e4c54c9b2d4a06d8373", "test": "eb5a983be6a315427106f1b164d9cef3"}
AT = "http://ufldl.stanford.edu/housenumbers/"


def matlab(root: Path) -> Layout | None:
    """Recognise train_32x32.mat and test_32x32.mat: X uint8 [32,32,3,N] and y [N], in which a zero is 10."""
    files = [root / f"{part}_32x32.mat" for part in SUMS]
    if not all(path.is_file() for path in files):
        return None

    def pictures() -> Iterator[SourceImage]:
        parts = {path.stem: _read(path) for path in files}
        for k, digit in enumerate(DIGITS):
            for part, (images, labels) in parts.items():
                for i in np.flatnonzero(labels == k):
                    image = np.ascontiguousarray(images[..., i])
                    yield SourceImage(digit, digit, f"{part}/{i}", partial(Image.fromarray, image))

    return Layout("matlab files", files, lambda: dict.fromkeys(DIGITS), pictures)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = arrays(path, ("X", "y"))
    labels = labels.ravel() % 10
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
        raise UserError(f"{path}: X is {images.dtype} {images.shape} and y {labels.shape}. Fetch it anew.")
    return images, labels


WHOLE = PublishedDataset(
    title="SVHN",
    option="svhn",
    protocol="",
    prefix="svhn",
    splits=dict.fromkeys(DIGITS, "test"),
    whose="its 10 digits",
    images=99_289,
    recognise=(matlab,),
    layouts="  train_32x32.mat and test_32x32.mat",
    downloads=tuple(
        Published(f"{part}_32x32.mat", (f"{AT}{part}_32x32.mat",), f"md5:{md5}") for part, md5 in SUMS.items()
    ),
    tested="test_32x32/",
)


@dataclass(frozen=True)
class SVHN(ClassSplitDataset):
    """Serve SVHN's train and test images as [3,size,size], 10 digits of 6,254 to 18,960 images each."""

    whole: ClassVar[PublishedDataset] = WHOLE

    size: int = 32
