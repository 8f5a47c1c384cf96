"""A folder of class folders: which image files are which class's, and which classes are which split's."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metalab.core.errors import UserError
from metalab.core.text import first_names, printable
from metalab.data.formats.image_decode import EXTENSIONS

SPLITS = ("train", "val", "test")
ALL = "all"  # the one part of a folder whose classes, or images, are split by ratios
FEW_CLASSES = """\
  metalab train data=folder data.root=FOLDER data.protocol=images algo=baseline
    trains a plain classifier of these classes and tests it on images that are held out
  metalab predict run=null backbone=torchvision backbone.name=... backbone.weights=... support=FOLDER images=FOLDER
    trains nothing: a pretrained net compares images with those of the class folders"""


class Tree(NamedTuple):
    """What stands below a folder; paths are relative to it."""

    images: dict[str, dict[str, list[str]]]  # split -> class name -> image files, both sorted
    parts: dict[str, dict[str, list[str]]]  # the same where the splits are folders; else all classes, as one part
    remarks: list[str]  # what is left out and why, in words
    missing: Sequence[str] = ()  # files that a table of labels names and that are not there


def read_tree(root: Path, ratios: list[float], seed: int, skip: Sequence[str] = (), by_image: bool = False) -> Tree:
    """Return the classes of root's train/ val/ test/ folders, or those of root itself, split by ratios and seed.

    by_image: the folders hold the same classes, val/ may be missing, and where there are none the classes are one
    part, whose images are split later. Folders with a name that is to be skipped are left out, whatever its case.
    Raises UserError where a folder is missing, or the classes are too few for two in each split.
    """
    remarks: list[str] = []
    left = _Skipped(root, frozenset(name.casefold() for name in skip), [])
    folders = left.without(root, _children(root)[0])
    given = [name for name in SPLITS if name in folders and _children(root / name)[0]]
    capital = [name for name in folders if name not in SPLITS and name.lower() in SPLITS]
    if len(capital) > 1 and not given:
        raise UserError(
            f"{root} has {_listed(capital)}: expected train/, val/ and test/ in small letters; rename them, or they "
            "would be taken for classes"
        )
    if given:
        missing = [name for name in SPLITS if name not in given and not (by_image and name == "val")]
        if missing:
            raise UserError(_missing(root, given, missing, by_image))
        beside = [name for name in folders if name not in SPLITS]
        if beside:
            remarks.append(f"{len(beside)} folders beside train/ val/ test/ are left out: {first_names(beside)}")
        images = parts = {split: _classes(root, split, remarks, left) for split in given}
        for split, classes in images.items():
            if len(classes) < 2:
                raise UserError(f"{root / split} has {len(classes)} class folders with images: add some, 2 are needed")
        if by_image:
            _refuse_other_classes(root, images)
    else:
        parts = {ALL: _classes(root, "", remarks, left)}
        found, deeper = f"{root} has {len(parts[ALL])} class folders with images", _deeper(root, parts[ALL])
        if by_image and len(parts[ALL]) < 2:
            raise UserError(f"{found}: a classifier needs 2{deeper}")
        images = parts if by_image else split_classes_by_ratio(found, parts[ALL], ratios, seed, deeper)
    if left.found:
        found = first_names(map(printable, dict.fromkeys(left.found)))
        remarks.append(f"folders that data.skip names are left out: {found}")
    return Tree(images, parts, remarks)


def read_classes(root: Path, skip: Sequence[str] = ()) -> tuple[dict[str, list[str]], list[str]]:
    """Return the image files of each class folder in root, paths relative to it, and what is left out, in words."""
    remarks: list[str] = []
    return _classes(root, "", remarks, _Skipped(root, frozenset(name.casefold() for name in skip), [])), remarks


def read_images(root: Path, skip: Sequence[str] = ()) -> list[str]:
    """Return the image files at any depth below root, relative to it, in the order of their names."""
    return _images(root, Counter(), _Skipped(root, frozenset(name.casefold() for name in skip), []))


class _Skipped(NamedTuple):
    """The folders that are left out, wherever they stand."""

    root: Path
    names: frozenset[str]  # case-folded
    found: list[str]  # relative to the root

    def without(self, place: Path, folders: list[str]) -> list[str]:
        """Return the folders of a place but those that are left out."""
        out = [name for name in folders if name.casefold() in self.names]
        self.found.extend(os.path.relpath(place / name, self.root) for name in out)
        return [name for name in folders if name not in out]


def _children(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of a folder's folders and files, sorted, hidden ones passed over."""
    entries = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
    return [e.name for e in entries if e.is_dir()], [e.name for e in entries if not e.is_dir()]


def _classes(root: Path, within: str, remarks: list[str], left: _Skipped) -> dict[str, list[str]]:
    """Return the image files of each class folder in root/within; remark on what else there is."""
    folders, stray = _children(root / within)
    place = f"{within}/" if within else ""
    others: Counter[str] = Counter()
    found = {name: _images(root / within / name, others, left) for name in left.without(root / within, folders)}
    nested = [words for name, files in found.items() if (words := _nested(place + name, files))]
    empty = [printable(place + name) for name, files in found.items() if not files]
    if stray:
        names = first_names(printable(place + name) for name in stray)
        remarks.append(f"{len(stray)} files stand where a class folder is expected and are left out: {names}")
    if empty:
        remarks.append(f"{len(empty)} class folders hold no image and are left out: {first_names(empty)}")
    if nested:
        remarks.append(
            f"{len(nested)} class folders hold folders of their own, and all images below are the class's: "
            f"{first_names(map(printable, nested))}. Where the inner ones are the classes, put these into one "
            "folder, or type data.root= one level down"
        )
    if others:
        kinds = first_names(f"{count} {kind}" for kind, count in others.most_common())
        known = " ".join(sorted(EXTENSIONS))
        remarks.append(
            f"{others.total()} files in class folders are no images and are left out: {kinds} (read: {known})"
        )
    return {name: files for name, files in found.items() if files}


def _nested(folder: str, files: list[str]) -> str:
    """Return in words how many of a class's images lie in folders below its own; nothing where none does."""
    inner = [parts[0] for file in files if len(parts := Path(os.path.relpath(file, folder)).parts) > 1]
    names = list(dict.fromkeys(inner))
    return f"{folder} ({len(inner)} images in {', '.join(names[:3])}{', ...' * (len(names) > 3)})" if names else ""


def _images(folder: Path, others: Counter[str], left: _Skipped) -> list[str]:
    """Return the image files at any depth below a folder; count the other files by extension."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): mend its permissions or move it away")

    files, been = [], set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in been:  # a link to a folder above: once is enough
            folders.clear()
            continue
        been.add(real)
        folders[:] = left.without(Path(place), sorted(name for name in folders if not name.startswith(".")))
        for name in sorted(name for name in names if not name.startswith(".")):
            kind = os.path.splitext(name)[1].lower()
            if kind in EXTENSIONS:
                files.append(os.path.relpath(os.path.join(place, name), left.root))
            else:
                others[kind or "without extension"] += 1
    return sorted(files)


def split_classes_by_ratio(
    found: str, classes: dict[str, list[str]], ratios: list[float], seed: int, hint: str = ""
) -> dict[str, dict[str, list[str]]]:
    """Give whole classes to train, val and test: at least two to each whose ratio is not 0, none to the others.

    found, hint: what a UserError of too few classes begins with, and what it says of where others may be.
    """
    n = len(classes)
    val, test = (max(2, round(n * ratio)) if ratio else 0 for ratio in ratios[1:])
    if not ratios[0]:  # where nothing is trained
        val, test = (n - test, test) if ratios[1] else (0, n)
    edges = [n - val - test, n - test]
    needed = sum(2 for ratio in ratios if ratio)
    if n < needed or edges[0] < (2 if ratios[0] else 0) or edges[1] - edges[0] < (2 if ratios[1] else 0):
        instead = f", or without episodes of new classes:\n{FEW_CLASSES}" if n > 1 else ""
        raise UserError(
            f"{found}; splitting them by data.ratios={list(ratios)} needs at least {needed}, two for each of train, "
            f"val and test that is used: add classes{hint}{instead}"
        )
    names = sorted(classes)
    order = np.random.default_rng(seed).permutation(n)
    parts = np.split(order, edges)
    return {
        split: {names[i]: classes[names[i]] for i in sorted(part.tolist())}
        for split, part in zip(SPLITS, parts, strict=True)
    }


def _deeper(root: Path, classes: dict[str, list[str]]) -> str:
    """Return the question whether the one class folder is where the class folders are."""
    if len(classes) != 1:
        return ""
    (name,) = classes
    return f"; or did you mean data.root={root / name}?" if _children(root / name)[0] else ""


def _missing(root: Path, given: list[str], missing: list[str], by_image: bool) -> str:
    """Say which of train/ val/ test/ are missing, and what to do."""
    one = "all class folders into one folder, to be split by data.ratios and data.seed"
    said = f"{root} has class folders in {_listed(given)} but none in {_listed(missing)}: add these, or put {one}"
    alone = f"; to test on all of {given[0]}/ type data.root={root / given[0]} data.ratios=[0,0,1]"
    if by_image:
        return said + (alone if given == ["test"] else "")
    same = set.intersection(*(set(_children(root / name)[0]) for name in given))
    classifier = "; or type data.protocol=images algo=baseline for a plain classifier of the same classes, "
    return said + (classifier + "its validation images split off train/" if given == ["train", "test"] and same else "")


def _refuse_other_classes(root: Path, images: dict[str, dict[str, list[str]]]) -> None:
    """Raise UserError unless train/ val/ test/ hold the same class folders."""
    names = {name: [split for split in images if name in images[split]] for each in images.values() for name in each}
    some = [f"{printable(name)} ({' and '.join(there)})" for name, there in names.items() if len(there) < len(images)]
    if some:
        raise UserError(
            f"data.protocol=images has the same classes in {_listed(list(images))}, and {len(some)} class folders of "
            f"{root} are not in all of them: {first_names(some)}. Add or remove these, or type data.protocol=classes "
            "for episodes of new classes"
        )


def _listed(names: list[str]) -> str:
    return " and ".join(f"{name}/" for name in names)
