"""PACS (Li et al., 2017): 7 classes, each in 4 domains: photographs, art paintings, cartoons and sketches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from metalab.core.interfaces import Split
from metalab.data.datasets.base.class_split import ClassSplitDataset
from metalab.data.datasets.base.image_split import drawn_image_split, images_where
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.file_tree import IMAGES
from metalab.data.formats.image_decode import opened
from metalab.data.formats.layouts import Layout, SourceImage
from metalab.data.formats.packed_npz import packed

CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
DOMAINS = ("art_painting", "cartoon", "photo", "sketch")


def domain_folders(root: Path) -> Layout | None:
    """Recognise the published folders, DOMAIN/CLASS/*.jpg or *.png, in root or in one of its own folders."""
    places = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    home = next((place for place in places if all((place / domain).is_dir() for domain in DOMAINS)), None)
    if home is None:
        return None
    images: dict[str, list[Path]] = {}
    for name in CLASSES:
        folders = [home / domain / name for domain in DOMAINS if (home / domain / name).is_dir()]
        files = [file for folder in folders for file in sorted(folder.iterdir())]
        images[name] = [file for file in files if file.suffix.lower() in IMAGES and file.name[0] != "."]
    images = {name: files for name, files in images.items() if files}

    def pictures() -> Iterator[SourceImage]:
        for name, files in images.items():
            for file in files:
                yield SourceImage(name, name, file.relative_to(home).as_posix(), partial(opened, file))

    every = [file for files in images.values() for file in files]
    return Layout("domain folders", every, lambda: dict.fromkeys(images), pictures, len(every))


WHOLE = PublishedDataset(
    title="PACS",
    option="pacs",
    protocol="",
    prefix="pacs",
    splits=dict.fromkeys(CLASSES, "test"),
    whose="its 7 classes",
    images=9_991,
    recognise=(partial(packed, sized=True), domain_folders),
    layouts=(
        "  a folder a domain, in each a folder a class: photo/dog/*.jpg, as published (kfold/)\n"
        "  *.npz, JPEG files packed one after another: blob, offsets, labels, class_names, files (photo/dog/x.jpg)"
    ),
    why="no address offers it to all without a form",
)


def domain_of(file: str) -> str:
    """Return the domain of an image by its file, ...DOMAIN/CLASS/NAME."""
    return PurePosixPath(file).parts[-3]


@dataclass(frozen=True)
class PACS(ClassSplitDataset):
    """Serve PACS as [3,size,size], 7 classes of 943 to 1,729 images, of one domain or of all.

    protocol=images: the published lists of test images are not read; `seed` draws a fifth of each class in each domain
    for the test and a tenth of the rest for validation, the same whatever `domain` is, so that a net which was trained
    on one domain can be tested on another.
    """

    whole: ClassVar[PublishedDataset] = WHOLE

    size: int = 72
    classes: list[int] = field(default_factory=lambda: [0, 0, 7])
    protocol: Literal["classes", "images"] = "images"
    domain: Literal["photo", "art_painting", "cartoon", "sketch", "all"] = "all"

    def load(self, split: str) -> Split:
        """Return the train, val or test images, or classes; UserError with what is wrong with data.root."""
        if self.protocol == "images":
            whole = self._cut(self._all, 0, "test")
            served = drawn_image_split(whole, [domain_of(file) for file in whole.files], split, self.seed)
        else:
            served = super().load(split)
        if self.domain == "all":
            return served
        return images_where(served, lambda file: domain_of(file) == self.domain, f"data.domain={self.domain}")
