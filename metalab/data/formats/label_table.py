"""A table of image files and their classes: which files are which class's, and which classes are which split's."""

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metalab.config.validate import suggest
from metalab.core.errors import UserError
from metalab.core.text import first_names, printable
from metalab.data.formats.class_tree import ALL, SPLITS, Tree, read_images, split_classes_by_ratio
from metalab.data.formats.split_lists import Entry, is_split_list, split_list

SPELLINGS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
Parts = dict[str, dict[str, list[str]]]  # split -> class name -> image files, relative to the root


@dataclass(frozen=True)
class LabelTable:
    """Which columns of a CSV name an image and its class, and which classes are kept; or CoOp's lists, without columns.

    Args:
        path: of the table, relative to the root of the images or absolute; lists where it ends in .json.
        file: the column of the image files: paths below the root, or names of files that stand anywhere below it, with
            or without their extension.
        label: the column of the class names; or several columns, of which the one that is 1 names the class.
        split: the column that says train, val or test; None: classes, or images, are split by ratios.
        only: the class names that are kept; None: all.
    """

    path: str
    file: str
    label: str | Sequence[str]
    split: str | None
    only: Sequence[str] | None

    def read(
        self, root: Path, ratios: list[float], seed: int, skip: Sequence[str] = (), by_image: bool = False
    ) -> Tree:
        """Return the classes of the table, as read_tree does those of class folders.

        Files that are named and not there are left out, and Tree.missing names them. Raises UserError for a table that
        cannot be read, columns that it has not, an image of two classes, and where no image is there.
        """
        table = root / self.path
        there = _Files(root, read_images(root, skip))
        parts: Parts = {}
        homes: dict[str, tuple[str, str]] = {}  # image -> its split and class
        missing, other = [], Counter[str]()
        for where, given, name, part in self._entries(table):
            if self.only is not None and name not in self.only:
                other[name] += 1
                continue
            file = there.find(given, table, where)
            if file is None:
                missing.append(given)
            elif homes.setdefault(file, (part, name)) == (part, name):
                parts.setdefault(part, {}).setdefault(name, []).append(file)
            else:
                before, now = (
                    f"{part}'s {name}" if self._has_splits else name for part, name in (homes[file], (part, name))
                )
                raise UserError(
                    f"{table}, {where}: {printable(file)} is of {now} here and of {before} above; an image has one "
                    "class and stands in one split. data.only=[...] leaves out all classes but those it names"
                )
        self._refuse(table, parts, missing, other)
        parts = {part: {name: sorted(set(files)) for name, files in sorted(own.items())} for part, own in parts.items()}
        remarks = [f"images of classes that data.only does not name are left out: {other.total()}"] if other else []
        return Tree(self._split(table, parts, ratios, seed, by_image), parts, remarks, missing)

    @property
    def _has_splits(self) -> bool:
        return self.split is not None or is_split_list(self.path)

    def _entries(self, table: Path) -> Iterator[Entry]:
        """Yield what the table says of each image."""
        if is_split_list(self.path):
            if self.split is not None:
                raise UserError(f"data.split_column={self.split}: {table} has no columns, and has splits: leave it out")
            yield from split_list(table)
            return
        for line, row in self._lines(table):
            file = (row[self.file] or "").strip()
            yield Entry(f"line {line}", file, self._class(row, table, line), self._part(row, table, line))

    def _lines(self, table: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
        """Yield the number and the columns of each line."""
        try:
            with table.open(encoding="utf-8-sig", newline="") as file:  # as spreadsheets save it, too
                head = file.readline()
                file.seek(0)
                marks = {mark: head.count(mark) for mark in ",;\t"}
                rows = csv.DictReader(file, delimiter=max(marks, key=lambda mark: marks[mark]))
                self._check_columns(table, list(rows.fieldnames or ()))
                for row in rows:
                    if any(value for value in row.values()):  # spreadsheets leave lines of commas alone
                        yield rows.line_num, row
        except OSError as error:
            raise UserError(f"data.labels={self.path}: {table} cannot be read ({error.strerror})") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"data.labels={self.path}: {table} is no table in UTF-8 ({error}); save it so") from error

    def _check_columns(self, table: Path, there: list[str]) -> None:
        labels = [self.label] if isinstance(self.label, str) else list(self.label)
        if len(labels) != len(set(labels)) or not labels:
            raise UserError(f"data.label_column={labels}: expected one column, or several different ones")
        wanted = {
            "file_column": [self.file],
            "label_column": labels,
            "split_column": [self.split] if self.split else [],
        }
        for key, columns in wanted.items():
            for column in columns:
                if column not in there:
                    raise UserError(f"data.{key}={column}: {table} has no such column.{suggest(column, there)}")
                if there.count(column) > 1:
                    raise UserError(f"data.{key}={column}: {table} has {there.count(column)} columns of this name")

    def _class(self, row: dict[str, str | None], table: Path, line: int) -> str:
        """Return the class that a line names."""
        if isinstance(self.label, str):
            name = (row[self.label] or "").strip()
            if not name:
                raise UserError(f"{table}, line {line}: no class in the column {self.label}")
            return name
        chosen = [column for column in self.label if (row[column] or "").strip() in ("1", "1.0")]
        if len(chosen) != 1:
            raise UserError(
                f"{table}, line {line}: {len(chosen)} of the columns {', '.join(self.label)} are 1; one names the "
                "class. Name all class columns, and of these choose with data.only"
            )
        return chosen[0]

    def _part(self, row: dict[str, str | None], table: Path, line: int) -> str:
        """Return the split that a line names; ALL where the table has none."""
        if self.split is None:
            return ALL
        given = (row[self.split] or "").strip().lower()
        part = SPELLINGS.get(given, given)
        if part not in SPLITS:
            raise UserError(f"{table}, line {line}: {self.split} is {given!r}; expected train, val or test")
        return part

    def _refuse(self, table: Path, parts: Parts, missing: list[str], other: Counter[str]) -> None:
        """Raise UserError where nothing is left, or a class that is asked for is not there."""
        if not parts:
            what = f"of the {len(missing)} files that it names, none is below" if missing else "it names no image in"
            of = f" of the classes {', '.join(self.only or ())}" if other and not missing else ""
            raise UserError(f"{table}: {what} data.root{of}{': ' if missing else ''}{first_names(missing)}")
        found = {name for own in parts.values() for name in own}
        if absent := [name for name in self.only or () if name not in found]:
            known = sorted(found | set(other))
            raise UserError(f"data.only: {table} has no class {absent[0]} with images.{suggest(absent[0], known)}")

    def _split(self, table: Path, parts: Parts, ratios: list[float], seed: int, by_image: bool) -> Parts:
        """Return the classes of each split; UserError where there are too few."""
        if not self._has_splits:
            if by_image:
                if len(parts[ALL]) < 2:
                    raise UserError(f"{table} has 1 class with images: a classifier needs 2")
                return parts
            return split_classes_by_ratio(
                f"{table} has {len(parts[ALL])} classes with images", parts[ALL], ratios, seed
            )
        lacking = [part for part in SPLITS if part not in parts and not (by_image and part == "val")]
        if lacking:
            instead = "" if self.split is None else ": type data.split_column=null to split by data.ratios"
            raise UserError(f"{table} has no image in {' and '.join(lacking)}{instead}")
        few = [part for part, own in parts.items() if len(own) < 2]
        if few:
            raise UserError(f"{table} has 1 class with images in {few[0]}: 2 are needed")
        if by_image and any(own.keys() != parts["train"].keys() for own in parts.values()):
            some = set[str]().union(*parts.values()) - set[str].intersection(*(set(own) for own in parts.values()))
            raise UserError(
                f"data.protocol=images has the same classes in all splits, and {len(some)} classes of {table} are not "
                f"in each: {first_names(sorted(some))}; type data.protocol=classes for episodes of new classes"
            )
        return parts


class _Files:
    """The image files below a root, by what a table may call them."""

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self._root = os.path.abspath(root)
        self._by_path = {file: [file] for file in files}
        self._others: dict[str, list[str]] = defaultdict(list)
        for file in files:
            name = os.path.basename(file)
            for other in {os.path.splitext(file)[0], name, os.path.splitext(name)[0]} - {file}:
                self._others[other].append(file)

    def find(self, name: str, table: Path, where: str) -> str | None:
        """Return the file that a line names, None where it is not there; UserError where there are several."""
        name = os.path.normpath(name.replace("\\", "/"))
        if os.path.isabs(name):
            name = os.path.relpath(name, self._root)
        found = self._by_path.get(name) or self._others.get(name, [])
        if len(found) > 1:
            raise UserError(
                f"{table}, {where}: {printable(name)} may be {first_names(map(printable, found))}: name the path "
                "below data.root"
            )
        return found[0] if found else None
