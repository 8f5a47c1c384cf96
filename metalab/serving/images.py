"""Folders of a person's own pictures: a support, one folder a class, and images that are to be classified."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metalab.config.paths import given_path
from metalab.core.errors import UserError
from metalab.core.text import first_names, printable
from metalab.data.formats.class_tree import read_classes, read_images
from metalab.data.formats.image_decode import EXTENSIONS, DecodedImage

logger = logging.getLogger("metalab")
Decode = Callable[[Path], DecodedImage]  # from a file to its pixels, as the net takes them; raises what Pillow raises
SUPPORT, IMAGES = "/path/to/classes", "/path/to/images"
AHEAD = 64  # images that are decoded before they are asked for


@dataclass(frozen=True)
class Support:
    """The labelled images from which a classifier is made; those of a class stand one after another."""

    names: list[str]  # [K] of the classes
    images: Tensor  # uint8 [N,C,H,W]
    labels: Tensor  # int64 [N]
    files: list[str]  # [N] relative to the folder
    digests: list[str]  # [N] of their content
    unread: Mapping[str, str]  # files that cannot be read -> why

    @property
    def count(self) -> list[int]:
        """The number of images of each class."""
        return torch.bincount(self.labels, minlength=len(self.names)).tolist()


class NamedImage(NamedTuple):
    """A file that is to be classified; pixels uint8 [C,H,W], or in words why there are none."""

    file: str  # below the folder that was given
    pixels: np.ndarray | str
    digest: str


def read_support(given: str, decode: Decode) -> Support:
    """Read a support, one folder a class.

    Args:
        given: the folder, as it was typed.
        decode: from a file to its pixels.

    Raises:
        UserError: where there is no such folder, or fewer than two classes with an image that can be read.
    """
    root = _there(given, "support", SUPPORT)
    if not root.is_dir():
        raise UserError(f"support={given} is a file: expected a folder with one folder a class")
    classes, remarks = read_classes(root)
    for remark in remarks:
        logger.warning("%s: %s", root, remark)
    files = [(label, file) for label, listed in enumerate(classes.values()) for file in listed]
    found = list(decoded(root, [file for _, file in files], decode))
    unread = {image.file: image.pixels for image in found if isinstance(image.pixels, str)}
    kept = [(label, image) for (label, _), image in zip(files, found, strict=True) if image.file not in unread]
    labels = sorted({label for label, _ in kept})
    names = [printable(list(classes)[label]) for label in labels]
    if lost := [printable(name) for label, name in enumerate(classes) if label not in labels]:
        raise UserError(f"support={given}: no image of {first_names(lost)} can be read: {_why(unread)}")
    if len(names) < 2:
        raise UserError(
            f"support={given} has {len(names)} class folders with images, 2 or more are needed: put the images of each "
            "class into a folder with its name, as support/cat/1.jpg and support/dog/1.jpg"
        )
    pixels = np.stack([image.pixels for _, image in kept if not isinstance(image.pixels, str)])
    return Support(
        names=names,
        images=torch.from_numpy(pixels),
        labels=torch.tensor([labels.index(label) for label, _ in kept]),
        files=[image.file for _, image in kept],
        digests=[image.digest for _, image in kept],
        unread=unread,
    )


def list_images(given: str) -> tuple[Path, list[str]]:
    """Return the folder and the files in it, relative to it and by name, of images=FOLDER or images=FILE.

    Raises:
        UserError: where there is no such folder or file, or no image in it.
    """
    path = _there(given, "images", IMAGES)
    if path.is_file():
        return path.parent, [path.name]
    files = read_images(path)
    if not files:
        raise UserError(f"images={given} holds no image at any depth (read: {' '.join(sorted(EXTENSIONS))})")
    return path, files


def decoded(root: Path, files: Sequence[str], decode: Decode) -> Iterator[NamedImage]:
    """Give the files' images in their order, some of them decoded ahead by threads."""

    def one(file: str) -> NamedImage:
        try:
            image = decode(root / file)
            return NamedImage(printable(file), image.pixels, image.digest)
        except UserError:
            raise  # a setting, and not the file, is wrong
        except Exception as error:  # Pillow's readers raise anything on a broken file
            why = f"{type(error).__name__}: {error}".replace(str(root / file), Path(file).name)
            return NamedImage(printable(file), why, "")

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        rest = iter(files)
        waiting = [pool.submit(one, file) for file in islice(rest, AHEAD)]
        while waiting:
            done, waiting = waiting[0].result(), waiting[1:]
            waiting += [pool.submit(one, file) for file in islice(rest, 1)]
            yield done


def report_unread(unread: Mapping[str, str], strict: bool, of: str) -> None:
    """Name the images that cannot be read in a warning.

    Raises:
        UserError: where there are some and `strict` asks for all.
    """
    if unread and strict:
        raise UserError(
            f"{len(unread)} of the {of} cannot be read and predict.strict=true asks for all of them: {_why(unread)}; "
            "mend or remove them, or type predict.strict=false to leave them out"
        )
    if unread:
        logger.warning("%d of the %s cannot be read and are left out: %s", len(unread), of, _why(unread))


def _why(unread: Mapping[str, str]) -> str:
    return first_names(f"{file} ({why})" for file, why in unread.items())


def _there(given: str, key: str, example: str) -> Path:
    path = given_path(given, key, example)
    if not path.exists():
        raise UserError(f"{key}={given} does not exist: type the folder of your images, as {key}={example}")
    return path
