"""The forms that data sets of class-split images come in: class folders, csv and images, pickles, packed npz."""

import csv
import io
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from metalab.data.sources import IMAGES, SPLITS, tree
from metalab.data.unpickle import images_and_rows
from metalab.errors import UserError

WNID = re.compile(r"n\d{8}")  # what ImageNet's class folders are called


class Picture(NamedTuple):
    """One image that has been found but not yet decoded."""

    class_name: str  # as the published split has it
    shown: str  # the class in words, else its name
    file: str
    open: Callable[[], Image.Image]


class Layout(NamedTuple):
    """What a folder was recognised to be."""

    name: str
    files: list[Path]  # whose names, sizes and times tell this source from another
    classes: Callable[[], dict[str, str | None]]  # class -> the split it stands in, None where the layout names none
    pictures: Callable[[], Iterator[Picture]]  # class by class
    total: int | None = None  # images, where that is known before they are read
    note: str = ""  # what a referee must know


def class_folders(root: Path, named: re.Pattern[str] = WNID) -> Layout | None:
    """Recognise train/ val/ test/ with a folder a class in each, or a flat tree of class folders, by their names."""
    places: dict[Path, str | None] = {root / split: split for split in SPLITS if (root / split).is_dir()}
    places = places or {root: None}
    folders = {path: split for place, split in places.items() for path in sorted(place.iterdir())}
    folders = {path: split for path, split in folders.items() if named.fullmatch(path.name) and path.is_dir()}
    if not folders:
        return None
    images = {path: [file for file in tree(path) if file.suffix.lower() in IMAGES] for path in folders}

    def pictures() -> Iterator[Picture]:
        for folder, files in images.items():
            for file in files:
                yield Picture(folder.name, folder.name, str(file.relative_to(root)), partial(Image.open, file))

    classes = {folder.name: split for folder, split in folders.items() if images[folder]}
    every = [file for files in images.values() for file in files]
    return Layout("class folders", every, lambda: classes, pictures, len(every))


def csv_images(root: Path) -> Layout | None:
    """Recognise train.csv, val.csv and test.csv (columns filename and label) beside a folder images/."""
    tables = three(root, {split: [f"{split}.csv"] for split in SPLITS})
    if not tables:
        return None
    if not (root / "images").is_dir():
        raise UserError(f"data.root={root} has train.csv, but no folder images/ with the files it names.")
    there = set(os.listdir(root / "images"))
    images: dict[str, list[str]] = {}
    classes: dict[str, str | None] = {}
    for split, table in tables.items():
        for row in csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))):
            if not row.get("filename") or not row.get("label"):
                raise UserError(f"{table} has the columns {', '.join(row)}; expected: filename,label.")
            if row["filename"] not in there:
                raise UserError(f"{root / 'images' / row['filename']} is missing; {table.name} names it.")
            if classes.setdefault(row["label"], split) != split:
                raise UserError(f"{table}: class {row['label']} stands in {classes[row['label']]}.csv too.")
            images.setdefault(row["label"], []).append(row["filename"])

    def pictures() -> Iterator[Picture]:
        for wnid, names in images.items():
            for name in names:
                yield Picture(wnid, wnid, f"images/{name}", partial(Image.open, root / "images" / name))

    files = [root / "images" / name for names in images.values() for name in names]
    return Layout("csv and images", [*tables.values(), *files], lambda: classes, pictures, len(files))


def pickles(root: Path) -> Layout | None:
    """Recognise mini-imagenet-cache-{train,validation,test}.pkl as learn2learn reads them; nothing in them is run."""
    form = "mini-imagenet-cache-{}.pkl"
    names = {split: [form.format(split)] for split in SPLITS}
    files = three(root, {**names, "val": [form.format("validation"), form.format("val")]})
    if not files:
        return None

    def classes() -> dict[str, str | None]:
        return {wnid: split for split, file in files.items() for wnid in images_and_rows(file)[1]}

    def pictures() -> Iterator[Picture]:
        for file in files.values():
            images, rows = images_and_rows(file)
            for wnid, indices in rows.items():
                for i in indices:
                    yield Picture(wnid, wnid, f"{file.name}#{i}", partial(Image.fromarray, images[i]))

    return Layout("pickles", list(files.values()), classes, pictures)


def packed(root: Path) -> Layout | None:
    """Recognise npz files of JPEGs one after another: blob, offsets [N+1], labels [N], class_names, files."""
    keys = {"blob", "offsets", "labels", "class_names", "files"}
    archives = [path for path in sorted(root.glob("*.npz")) if keys <= set(_npz(path, []))]
    if not archives:
        return None

    def classes() -> dict[str, str | None]:
        return {str(wnid): None for path in archives for wnid in _npz(path, ["class_names"])["class_names"]}

    def pictures() -> Iterator[Picture]:
        for path in archives:
            z = _npz(path, [*keys, "class_words"])
            words = z["class_words"] if z["class_words"] is not None else z["class_names"]
            for i in np.argsort(z["labels"], kind="stable"):
                raw = z["blob"][z["offsets"][i] : z["offsets"][i + 1]].tobytes()
                label = z["labels"][i]
                file = f"{path.name}/{z['files'][i]}"
                yield Picture(str(z["class_names"][label]), str(words[label]), file, partial(_opened, raw))

    z = _npz(archives[-1], ["blob", "offsets"])
    total = sum(len(_npz(path, ["labels"])["labels"]) for path in archives)
    return Layout("packed", archives, classes, pictures, total, _reencoded(z["blob"][: z["offsets"][1]].tobytes()))


def three(root: Path, names: dict[str, list[str]]) -> dict[str, Path]:
    """Return the file of each split, none at all where none is there; UserError where only some are."""
    found = {split: path for split, many in names.items() for path in [root / n for n in many] if path.is_file()}
    missing = [many[0] for split, many in names.items() if split not in found]
    if found and missing:
        there = ", ".join(path.name for path in found.values())
        raise UserError(f"data.root={root} has {there}, but not {', '.join(missing)}: all three are needed.")
    return found


def _opened(raw: bytes) -> Image.Image:
    return Image.open(io.BytesIO(raw))


def _reencoded(raw: bytes) -> str:
    """Say by which quality a JPEG was made, found by its quantisation tables; a packed copy is not the original."""
    try:
        tables = JpegImageFile(io.BytesIO(raw)).quantization
    except (SyntaxError, OSError):  # no JPEG; where it is no image at all, decoding will name it
        return "re-encoded, packed copy"
    for quality in range(1, 101):
        trial = io.BytesIO()
        Image.new("RGB", (8, 8)).save(trial, "JPEG", quality=quality)
        if JpegImageFile(io.BytesIO(trial.getvalue())).quantization == tables:
            return f"re-encoded, JPEG q{quality}"
    return "re-encoded, packed copy"


def _npz(path: Path, keys: list[str]) -> dict[str, Any]:
    """Return these arrays of the file, None for what it lacks; with no keys, every name it has."""
    try:
        with np.load(path, allow_pickle=False) as z:
            return {key: z[key] if key in z.files else None for key in keys} if keys else dict.fromkeys(z.files)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no sound npz file ({error}). Copy it anew.") from error
