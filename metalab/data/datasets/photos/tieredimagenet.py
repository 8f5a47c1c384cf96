"""tieredImageNet (Ren et al., 2018): 608 classes of ImageNet, split by category so that test classes are far away."""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metalab.core.errors import UserError
from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.official_split import OfficialSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.image_decode import opened
from metalab.data.formats.layouts import SPLITS, Layout, SourceImage, class_folders, three
from metalab.data.formats.safe_pickle import BROKEN, foreign, plain

OFFICIAL = class_splits("tieredimagenet")
WORDS = ("class_names.txt", "synsets.txt")  # line by line the words and the wnids of ImageNet's classes


def pickles(root: Path) -> Layout | None:
    """Recognise the authors' train_images_png.pkl, train_labels.pkl, ..., as learn2learn reads them; none is run."""
    root = next((place for place in (root, root / "tiered-imagenet") if (place / "train_labels.pkl").is_file()), root)
    labels = three(root, {split: [f"{split}_labels.pkl"] for split in SPLITS})
    if not labels:
        return None
    images = three(root, {split: [f"{split}_images_png.pkl"] for split in SPLITS})
    words = [root / name for name in WORDS]
    absent = [path.name for path in (*words, *labels.values()) if not path.is_file()]
    if absent or not images:
        absent += [] if images else ["train_images_png.pkl, val_images_png.pkl, test_images_png.pkl"]
        raise UserError(f"data.root={root} has train_labels.pkl, but not {', '.join(absent)}: all are needed.")

    def named() -> dict[str, tuple[np.ndarray, list[str]]]:
        return {split: _labels(path, split, *words) for split, path in labels.items()}

    def classes() -> dict[str, str | None]:
        return {wnid: split for split, (_, wnids) in named().items() for wnid in wnids}

    def pictures() -> Iterator[SourceImage]:
        for split, (each, wnids) in named().items():
            held = _read(images[split])
            if not isinstance(held, list) or len(held) != len(each):
                raise UserError(f"{images[split]} does not hold the {len(each):,} images of {labels[split].name}.")
            for i in np.argsort(each, kind="stable"):
                name = wnids[each[i]]
                yield SourceImage(name, name, f"{images[split].name}#{i}", partial(_opened, held[i]))

    files = [*words, *labels.values(), *images.values()]
    return Layout("pickles", files, classes, pictures)


def _read(path: Path) -> Any:
    with open(path, "rb") as file:
        return plain(file, path, "tieredImageNet")


def _labels(path: Path, split: str, words: Path, synsets: Path) -> tuple[np.ndarray, list[str]]:
    """Return the class of each image, int64 [N], and the wnid of each class.

    The pickle has words alone, and a few are those of two classes of ImageNet (crane): the split tells them apart.
    """
    held = _read(path)
    try:
        each = np.asarray(held["label_specific"]).astype(np.int64)
        shown = [str(word) for word in held["label_specific_str"]]
        if not 0 <= each.min() <= each.max() < len(shown):
            raise ValueError(f"labels from {each.min()} to {each.max()} of {len(shown)} classes")
    except BROKEN as error:
        raise foreign(path, "tieredImageNet", error) from error
    texts = (file.read_text(encoding="utf-8").splitlines() for file in (words, synsets))
    wnids: dict[str, list[str]] = {}
    for word, wnid in zip(*texts, strict=False):
        if OFFICIAL.get(wnid.strip()) == split:
            wnids.setdefault(word.strip(), []).append(wnid.strip())
    unclear = [word for word in shown if len(wnids.get(word.strip(), [])) != 1]
    if unclear:
        count = len(wnids.get(unclear[0].strip(), []))
        raise UserError(
            f"{path}: class '{unclear[0]}' ({len(unclear)} such) is the name of {count} {split} classes in "
            f"{words.name} and {synsets.name}, expected 1. Fetch these files anew."
        )
    return each, [wnids[word.strip()][0] for word in shown]


def _opened(raw: Any) -> Image.Image:
    return opened(io.BytesIO(bytes(np.asarray(raw, np.uint8).data)))


BENCHMARK = PublishedDataset(
    title="tieredImageNet",
    option="tieredimagenet",
    protocol="ren",
    prefix="imagenet",
    splits=OFFICIAL,
    whose="Ren et al.'s 351/97/160 classes",
    images=779_165,
    recognise=(class_folders, pickles),
    layouts=(
        "  train/ val/ test/, in each a folder a class: train/n01530575/*.jpg (or all 608 class folders side by side)\n"
        "  train_images_png.pkl, train_labels.pkl, the same of val and test, class_names.txt and synsets.txt"
    ),
    why="its images may not be passed on",
)


class TieredImageNet(OfficialSplitDataset):
    """Serve tieredImageNet as [3,size,size], 351/97/160 classes."""

    benchmark = BENCHMARK
