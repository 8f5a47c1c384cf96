"""A folder of class folders: which image files are which class's, and which classes are which split's."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metalab.data.decode import EXTENSIONS
from metalab.errors import UserError

SPLITS = ("train", "val", "test")


class Tree(NamedTuple):
    """What stands below a folder; paths are relative to it."""

    images: dict[str, dict[str, list[str]]]  # split -> class name -> image files, both sorted
    remarks: list[str]  # what is left out and why, in words


def read_tree(root: Path, ratios: list[float], seed: int) -> Tree:
    """Return the classes of root's train/ val/ test/ folders, or those of root itself, split by ratios and seed.

    Raises UserError where these folders are not three, or the classes too few for two in each split.
    """
    remarks: list[str] = []
    folders, _ = _children(root)
    given = [name for name in SPLITS if name in folders and _children(root / name)[0]]
    capital = [name for name in folders if name not in SPLITS and name.lower() in SPLITS]
    if len(capital) > 1 and not given:
        raise UserError(
            f"{root} has {_listed(capital)}: expected train/, val/ and test/ in small letters; rename them, or they "
            "would be taken for classes"
        )
    if given:
        missing = [name for name in SPLITS if name not in given]
        if missing:
            raise UserError(
                f"{root} has class folders in {_listed(given)} but none in {_listed(missing)}: add these, or put all "
                "class folders into one folder, to be split by data.ratios and data.seed"
            )
        beside = [name for name in folders if name not in SPLITS]
        if beside:
            remarks.append(f"{len(beside)} folders beside train/ val/ test/ are left out: {few(beside)}")
        images = {split: _classes(root, split, remarks) for split in SPLITS}
        for split, classes in images.items():
            if len(classes) < 2:
                raise UserError(f"{root / split} has {len(classes)} class folders with images: add some, 2 are needed")
    else:
        images = _by_ratio(root, _classes(root, "", remarks), ratios, seed)
    return Tree(images, remarks)


def few(names: Iterable[str]) -> str:
    """Return the first ten names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def shown(name: str) -> str:
    """Return a file name as text that can be printed and stored, whatever bytes it was made of."""
    return name.encode("utf-8", "backslashreplace").decode()


def _children(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of a folder's folders and files, sorted, hidden ones passed over."""
    entries = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
    return [e.name for e in entries if e.is_dir()], [e.name for e in entries if not e.is_dir()]


def _classes(root: Path, within: str, remarks: list[str]) -> dict[str, list[str]]:
    """Return the image files of each class folder in root/within; remark on what else there is."""
    folders, stray = _children(root / within)
    place = f"{within}/" if within else ""
    others: Counter[str] = Counter()
    found = {name: _images(root, root / within / name, others) for name in folders}
    empty = [shown(place + name) for name, files in found.items() if not files]
    if stray:
        names = few(shown(place + name) for name in stray)
        remarks.append(f"{len(stray)} files stand where a class folder is expected and are left out: {names}")
    if empty:
        remarks.append(f"{len(empty)} class folders hold no image and are left out: {few(empty)}")
    if others:
        kinds = few(f"{count} {kind}" for kind, count in others.most_common())
        known = " ".join(sorted(EXTENSIONS))
        remarks.append(
            f"{others.total()} files in class folders are no images and are left out: {kinds} (read: {known})"
        )
    return {name: files for name, files in found.items() if files}


def _images(root: Path, folder: Path, others: Counter[str]) -> list[str]:
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
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            kind = os.path.splitext(name)[1].lower()
            if kind in EXTENSIONS:
                files.append(os.path.relpath(os.path.join(place, name), root))
            else:
                others[kind or "without extension"] += 1
    return sorted(files)


def _by_ratio(
    root: Path, classes: dict[str, list[str]], ratios: list[float], seed: int
) -> dict[str, dict[str, list[str]]]:
    """Give whole classes to train, val and test: at least two to each whose ratio is not 0."""
    n = len(classes)
    val, test = (max(2, round(n * ratio)) if ratio else 0 for ratio in ratios[1:])
    edges = [n - val - test, n - test]
    if edges[0] < 2:
        needed = 2 + (2 if ratios[1] else 0) + (2 if ratios[2] else 0)
        inner = [name for name in classes if _children(root / name)[0]]
        hint = f"; or did you mean data.root={root / inner[0]}?" if n == 1 and inner else ""
        raise UserError(
            f"{root} has {n} class folders with images; splitting them by data.ratios={list(ratios)} needs at least "
            f"{needed}, two for each of train, val and test that is used: add classes{hint}"
        )
    names = sorted(classes)
    order = np.random.default_rng(seed).permutation(n)
    parts = np.split(order, edges)
    return {
        split: {names[i]: classes[names[i]] for i in sorted(part.tolist())}
        for split, part in zip(SPLITS, parts, strict=True)
    }


def _listed(names: list[str]) -> str:
    return " and ".join(f"{name}/" for name in names)
