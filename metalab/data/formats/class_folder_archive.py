"""A folder of class folders inside a published archive, read where it lies: CUB's images/, the textures' images/."""

import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from metalab.data.formats import image_decode
from metalab.data.formats.archives import Files, found
from metalab.data.formats.file_tree import IMAGES
from metalab.data.formats.layouts import Layout, SourceImage


def class_folders_in(root: Path, folder: str, inside: str, archives: tuple[str, ...]) -> Layout | None:
    """Recognise folder/inside/CLASS/*.jpg, unpacked in root or in one of these archives; `inside` may be ""."""
    files = found(root, folder, archives)
    if files is None:
        return None
    within = f"{inside}/" if inside else ""
    images: dict[str, list[str]] = {}
    for name in files.names:
        class_name, _, image = name.removeprefix(within).partition("/")
        if name.startswith(within) and image and name.lower().endswith(IMAGES):
            images.setdefault(class_name, []).append(name)
    return layout(files, images) if images else None


def layout(files: Files, images: dict[str, list[str]], read: Callable[[str], Image.Image] | None = None) -> Layout:
    """Return the layout of a data set whose classes are these of the files, in this order, opened by `read`."""
    read = read or partial(opened, files)

    def pictures() -> Iterator[SourceImage]:
        for class_name, names in images.items():
            for name in names:
                yield SourceImage(class_name, class_name, name, partial(read, name))

    total = sum(map(len, images.values()))
    kind = "archive" if files.where.is_file() else "unpacked archive"
    return Layout(kind, files.stamped(), lambda: dict.fromkeys(images), pictures, total)


def opened(files: Files, name: str) -> Image.Image:
    """Return one of the files as an image that is not yet decoded."""
    return image_decode.opened(io.BytesIO(files.read(name)))
