"""The forms that data sets of class-split images come in: class folders, csv and images, pickles."""

import csv
import io
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from metalab.core.errors import UserError
from metalab.data.class_lists import SPLITS
from metalab.data.formats.file_tree import IMAGES, tree
from metalab.data.formats.image_decode import opened
from metalab.data.formats.safe_pickle import images_and_rows

WNID = re.compile(r"n\d{8}")  # what ImageNet's class folders are called


class SourceImage(NamedTuple):
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
    pictures: Callable[[], Iterator[SourceImage]]  # class by class
    total: int | None = None  # images, where that is known before they are read
    note: str = ""  # what a referee must know


def class_folders(root: Path, named: re.Pattern[str] = WNID, flat: bool = False) -> Layout | None:
    """Recognise train/ val/ test/ with a folder a class in each, or a flat tree of class folders, by their names.

    flat: the flat tree alone.
    """
    places: dict[Path, str | None] = {root / split: split for split in SPLITS if (root / split).is_dir() and not flat}
    places = places or {root: None}
    folders = {path: split for place, split in places.items() for path in sorted(place.iterdir())}
    folders = {path: split for path, split in folders.items() if named.fullmatch(path.name) and path.is_dir()}
    if not folders:
        return None
    images = {path: [file for file in tree(path) if file.suffix.lower() in IMAGES] for path in folders}

    def pictures() -> Iterator[SourceImage]:
        for folder, files in images.items():
            for file in files:
                yield SourceImage(folder.name, folder.name, str(file.relative_to(root)), partial(opened, file))

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
        for file, label in _rows(table):
            if file not in there:
                raise UserError(f"{root / 'images' / file} is missing; {table.name} names it.")
            if classes.setdefault(label, split) != split:
                raise UserError(f"{table}: class {label} stands in {classes[label]}.csv too.")
            images.setdefault(label, []).append(file)

    def pictures() -> Iterator[SourceImage]:
        for wnid, names in images.items():
            for name in names:
                yield SourceImage(wnid, wnid, f"images/{name}", partial(opened, root / "images" / name))

    files = [root / "images" / name for names in images.values() for name in names]
    return Layout("csv and images", [*tables.values(), *files], lambda: classes, pictures, len(files))


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    """Yield file name and label of each line; UserError where the table is not sound."""
    try:
        rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig")))  # as spreadsheets save it
        for row in rows:
            if not row.get("filename") or not row.get("label"):
                columns = ", ".join(rows.fieldnames or ())
                raise UserError(
                    f"{table} has the columns {columns}; expected: filename,label, with both in line {rows.line_num}."
                )
            yield row["filename"], row["label"]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} is no table in UTF-8 ({error}). Copy it anew, or save it as CSV in UTF-8.") from error


def pickles(root: Path) -> Layout | None:
    """Recognise mini-imagenet-cache-{train,validation,test}.pkl as learn2learn reads them; nothing in them is run."""
    form = "mini-imagenet-cache-{}.pkl"
    names = {split: [form.format(split)] for split in SPLITS}
    files = three(root, {**names, "val": [form.format("validation"), form.format("val")]})
    if not files:
        return None

    def classes() -> dict[str, str | None]:
        return {wnid: split for split, file in files.items() for wnid in images_and_rows(file)[1]}

    def pictures() -> Iterator[SourceImage]:
        for file in files.values():
            images, rows = images_and_rows(file)
            for wnid, indices in rows.items():
                for i in indices:
                    yield SourceImage(wnid, wnid, f"{file.name}#{i}", partial(Image.fromarray, images[i]))

    return Layout("pickles", list(files.values()), classes, pictures)


def three(root: Path, names: dict[str, list[str]]) -> dict[str, Path]:
    """Return the file of each split, none at all where none is there; UserError where only some are."""
    found = {split: path for split, many in names.items() for path in [root / n for n in many] if path.is_file()}
    missing = [many[0] for split, many in names.items() if split not in found]
    if found and missing:
        there = ", ".join(path.name for path in found.values())
        raise UserError(f"data.root={root} has {there}, but not {', '.join(missing)}: all three are needed.")
    return found
