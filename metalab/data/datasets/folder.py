"""The user's own images: one folder a class, or a table of files and classes."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from metalab.config.paths import given_path
from metalab.core.errors import UserError
from metalab.core.interfaces import Interpolation, Split
from metalab.core.text import first_names, printable
from metalab.data.datasets.folder_by_image import ImageSplit
from metalab.data.datasets.folder_part import Part
from metalab.data.datasets.folder_store import Depth, Reading, folder_store, notes, refuse_unread
from metalab.data.formats.class_tree import ALL, SPLITS, Tree, read_tree
from metalab.data.formats.label_table import LabelTable
from metalab.data.identity.class_ids import refuse_copies, refuse_same_names, refuse_twins
from metalab.data.sampling.grouped import group_by_filename
from metalab.data.storage.store import NoSplit, Store, cache_folder, writing

FORM = "data.root=/path/to/images"
LARGEST = 1024  # pixels: what a large image is decoded at, at least (image_decode.MOST)
IN_MEMORY = 2**29  # bytes of a split's images that are held in memory where they do not lie in one piece in the store
log = logging.getLogger("metalab.data")


@final
@dataclass(frozen=True)
class Folder:
    """Read the class folders of `root`, or of its train/ val/ test/ folders where it has them.

    Without these, whole classes go to train, val and test by `ratios` and `seed`, at least two to each. Images at
    any depth below a class folder are the class's, uint8 [channels,size,size]; symbolic links are followed, hidden
    files and the folders of `skip` passed over. An unreadable image is named in a warning and left out, or an error
    where `strict`. Each image has an id, a digest of its content, by which a net that was trained on it knows it
    again, under another name and among others; one that stands in two splits is refused, or noted where
    `allow_copies`; so is a class name, and `allow_same_names`. `group` is of file names, relative to root: images of
    one group, such as one video's, never stand on both sides of an episode. `depth` is of 16-bit files: how many bits
    are used. `copies` are images that their class has already; classes of fewer than `least` images are left out. The
    square is the whole image, stretched, or its centre after the shorter side was made `resize` pixels; `interpolation`
    None is bicubic.
    protocol=images has all classes in each split, for a plain classifier, and splits the images of each class by
    `ratios` and `seed` where folders of the same classes do not; a group stays in one split. With `folds` the images
    that are tested are those of one fold of several, which together test each image once.
    `labels` is a table of files and classes in the place of class folders: see LabelTable.
    What has a default here had no choice in older versions: their runs are read as they were. Raises UserError.
    """

    root: str | None
    cache: str | None
    size: int
    channels: int
    ratios: list[float]
    seed: int
    strict: bool
    allow_copies: bool = False
    allow_same_names: bool = False
    group: str | None = None
    copies: Literal["leave_out", "keep"] = "keep"
    depth: Depth | None = None
    least: int = 1
    skip: list[str] = field(default_factory=list)
    resize: int | None = None
    interpolation: Interpolation | None = None
    protocol: Literal["classes", "images"] = "classes"
    folds: int | None = None
    fold: int = 0
    labels: str | None = None
    file_column: str = "file"
    label_column: str | list[str] = "label"
    split_column: str | None = None
    only: list[str | int] | None = None

    def __post_init__(self) -> None:
        if not 8 <= self.size <= LARGEST:
            raise UserError(f"data.size={self.size}: expected 8 to {LARGEST} pixels; type data.size=84")
        if self.resize is not None and not self.size <= self.resize <= 2 * LARGEST:
            raise UserError(
                f"data.resize={self.resize}: expected data.size, {self.size}, to {2 * LARGEST} pixels of the shorter "
                "side, of which the centre is cut out, or null to stretch the whole image"
            )
        if self.channels not in (1, 3):
            raise UserError(f"data.channels={self.channels}: expected 1 (grey) or 3 (RGB); type data.channels=3")
        if self.seed < 0:
            raise UserError(f"data.seed={self.seed}: expected 0 or more; type data.seed=0")
        if self.least < 1:
            raise UserError(f"data.least={self.least}: expected 1 or more images a class; type data.least=1")
        if len(self.ratios) != 3 or min(self.ratios) < 0 or abs(sum(self.ratios) - 1) > 1e-6:
            raise UserError(
                f"data.ratios={list(self.ratios)}: expected three shares of the classes, for train, val and test, "
                "each 0 or more, that add up to 1; type data.ratios=[0.64,0.16,0.20]"
            )
        if self.folds is not None and not self._by_image:
            raise UserError(f"data.folds={self.folds}: folds are of images; type data.protocol=images as well")
        if self.only is not None and self.labels is None:
            raise UserError(f"data.only={list(self.only)} goes with data.labels; data.skip leaves out class folders")
        for each in fields(self):
            if each.name.endswith("_column") and self.labels is None and getattr(self, each.name) != each.default:
                raise UserError(f"data.{each.name} names a column of a table: type data.labels=labels.csv, too")
        self._image_split(self.least)  # which refuses folds that there are not

    def load(self, split: str) -> Split:
        """Return the classes of train, val or test; decode the images on first use and after a change."""
        said = [] if self._by_image else [refuse_same_names(self._tree.images, self.allow_same_names)]
        self._refuse_absent(split)
        if self.strict:
            refuse_unread(self._store.facts)
        parts = self._parts
        if not self._by_image:  # its classes are in each split, and those of one split were compared
            refuse_twins({name: (part.ids, part.names) for name, part in parts.items()})
        said.append(
            refuse_copies({name: (part.image_ids, part.files) for name, part in parts.items()}, self.allow_copies)
        )
        if not parts[split].ids and not self._by_image:
            raise NoSplit(f"data.least={self.least} leaves no class for {split}: type a smaller one, or add images")
        said += [*self._told(split, parts[split]), *notes(self._store.facts, self._how)]
        sizes = {name: dict(zip(part.names, part.count, strict=True)) for name, part in parts.items()}
        loaded = self._split(split, parts[split], "; ".join(filter(None, said)), sizes)
        return loaded if self._by_image else group_by_filename(loaded, self.group)

    def in_folds(self, folds: int) -> Split:
        """Return all images, and in Split.fold which fold tests each.

        Args:
            folds: how many there are, as people type eval.folds.

        Raises:
            UserError: for classes with too few images, and where folders say what is tested.
        """
        self._refuse_absent("test")
        if self.strict:
            refuse_unread(self._store.facts)
        by_fold = ImageSplit(self.ratios, self.seed, self.least, self.group, folds, 0, "eval.folds")
        part, fold = by_fold.in_folds(self._all_homes(self.copies == "keep"))
        said = [*self._told("test", part), *notes(self._store.facts, self._how)]
        return replace(self._split("test", part, "; ".join(filter(None, said)), {}), fold=torch.from_numpy(fold))

    def unrefused(self, split: str) -> Split:
        """Return the split with all that is in it and whatever it shares with another one, for a report."""
        self._refuse_absent(split)
        return self._split(split, self._all_parts(copies=True, least=1)[split], "", {})

    def unreadable(self, split: str) -> list[str]:
        """Return the files of the split that cannot be read, sorted."""
        listed = (printable(file) for files in self._tree.images[self._home(split)].values() for file in files)
        return sorted(self._store.facts["unread"].keys() & set(listed))

    @property
    def excused(self) -> tuple[str, ...]:
        """What the names of classes begin with that may have one name in two splits."""
        return ("",) if self.allow_same_names else ()

    @property
    def _by_image(self) -> bool:
        return self.protocol == "images"

    def _home(self, split: str) -> str:
        """Return the part of the tree that the split's images are from: not its own where images are split."""
        if not self._by_image:
            return split
        return ALL if ALL in self._tree.parts else split if split in self._tree.parts else "train"

    def _image_split(self, least: int) -> ImageSplit:
        return ImageSplit(self.ratios, self.seed, least, self.group, self.folds, self.fold)

    def _refuse_absent(self, split: str) -> None:
        if not self._tree.images.get(self._home(split)):
            raise NoSplit(f"data.ratios={list(self.ratios)} leaves no class for {split}: type a share above 0")

    def _told(self, split: str, part: Part) -> Iterator[str]:
        """Warn of what of the split is left out or stands in it twice, at every start; yield it for every result."""
        left_out, home = self.unreadable(split), self._home(split)
        place = "" if home == ALL else f"{home} "
        if left_out:
            listed = sum(map(len, self._tree.images[home].values()))
            which = first_names(left_out)
            said = f"{len(left_out)} of the {listed} {place}images cannot be read and are left out: {which}"
            log.warning("%s", said)
            yield f"{len(left_out)} of {listed} images cannot be read and are left out"
        if missing := len(self._tree.missing):
            yield f"images that {self.labels} names are not there and are left out: {missing}"
        if part.copies and self.copies == "keep":
            said = f"{len(part.copies)} images occur more than once; support and query may share them"
            log.warning("%s: %s", said, first_names(part.copies))
            yield said
        elif part.copies:
            said = f"{len(part.copies)} images are copies of others of their class and are left out"
            log.warning("%s (data.copies=keep keeps them): %s", said, first_names(part.copies))
            yield said
        if part.shared:
            said = f"{part.shared} images stand in two {place}classes"
            log.warning("%s", said)
            yield said
        if part.small:
            said = f"{len(part.small)} classes of fewer than data.least={self.least} images are left out"
            log.warning("%s of %s: %s", said, split, first_names(part.small))
            yield said
        if split != "test" and home == "train" and "val" not in self._tree.parts and self._by_image:
            held_out, train = (len(self._parts[name].files) for name in ("val", "train"))
            yield f"{held_out} of the {held_out + train} images of train/ are held out for validation"

    @cached_property
    def _tree(self) -> Tree:
        root, how = self._root(), (self.ratios, self.seed, self.skip, self._by_image)
        tree = read_tree(root, *how) if self._table is None else self._table.read(root, *how)
        if tree.missing and self.strict:
            raise UserError(
                f"files that {self.labels} names are not below {root}, and data.strict=true asks for all of them: "
                f"{first_names(map(printable, tree.missing))}; type data.strict=false to leave them out"
            )
        for remark in tree.remarks:
            log.warning("%s: %s", root, remark)
        if tree.missing:
            names = first_names(map(printable, tree.missing))
            log.warning("%s: files that %s names are not there and are left out: %s", root, self.labels, names)
        return tree

    @property
    def _table(self) -> LabelTable | None:
        """The table that names the classes, if any."""
        if self.labels is None:
            return None
        path = str(given_path(self.labels, "data.labels", "labels.csv"))
        only = None if self.only is None else list(map(str, self.only))
        return LabelTable(path, self.file_column, self.label_column, self.split_column, only)

    @property
    def _how(self) -> Reading:
        return Reading(self.size, self.channels, self.depth, self.resize, self.interpolation or "bicubic")

    @cached_property
    def _store(self) -> Store:
        return folder_store(self._root(), self._tree.parts, self._how, self.cache, self.skip, self._table)

    @cached_property
    def _parts(self) -> dict[str, Part]:
        return self._all_parts(self.copies == "keep", self.least)

    def _all_parts(self, copies: bool, least: int) -> dict[str, Part]:
        """Return train, val and test, of classes of at least so many images, with or without copies within a class."""
        if not self._by_image:
            return {split: self._part(split, copies, least) for split in SPLITS}
        return self._image_split(least).parts(self._all_homes(copies))

    def _all_homes(self, copies: bool) -> dict[str, Part]:
        return {home: self._part(home, copies, 1) for home in self._tree.parts}

    def _part(self, split: str, copies: bool, least: int) -> Part:
        """Return the split's classes of at least so many images, with or without copies within a class."""
        part = Part([], [], [], [], [], [], [], 0, [])
        kept = self._store.splits.get(ALL if ALL in self._tree.parts else split)
        if kept is None:  # no image of it can be read
            return part
        same = {file: files[0] for files in self._store.facts["same"] for file in files}  # by content
        ends = np.cumsum(kept["count"]).tolist()
        place = {name: (end - count, end) for name, count, end in zip(kept["names"], kept["count"], ends, strict=True)}
        ids = dict(zip(kept["names"], kept["ids"], strict=True))
        homes: dict[str, set[str]] = {}
        for name in map(printable, self._tree.images[split]):
            seen: dict[str, str] = {}  # content -> the first file of the class with it
            rows = []
            for row in range(*place.get(name, (0, 0))):
                file = kept["files"][row]
                content = same.get(file, file)
                if content in seen:
                    part.copies.append(f"{file} = {seen[content]}")
                if copies or content not in seen:
                    rows.append(row)
                seen.setdefault(content, file)
                homes.setdefault(content, set()).add(name)
            if rows and len(rows) < least:
                part.small.append(f"{name} ({len(rows)})")
            elif rows:
                part.ids.append(ids[name])
                part.names.append(name)
                part.count.append(len(rows))
                part.rows.extend(rows)
        part.files.extend(kept["files"][row] for row in part.rows)
        part.image_ids.extend(kept["image_ids"][row] for row in part.rows)
        return part._replace(shared=sum(len(names) > 1 for names in homes.values()))

    def _split(self, split: str, part: Part, note: str, sizes: dict[str, dict[str, int]]) -> Split:
        if not part.ids and self._home(split) != split:
            raise NoSplit(f"data.ratios={list(self.ratios)} leaves no image for {split}: type a share above 0")
        if not part.ids:
            raise NoSplit(f"data.root={self.root} has no image for {split} that can be read: see the warnings above")
        count = torch.tensor(part.count)
        stored = self._store.images[ALL if ALL in self._tree.parts else self._home(split)]
        return Split(
            images=_joined(stored, part.rows, cache_folder(self.cache)),
            first=count.cumsum(0) - count,
            count=count,
            ids=part.ids,
            names=part.names,
            files=part.files,
            image_ids=part.image_ids,
            note=note,
            by_image=self._by_image,
            class_sizes=sizes,
        )

    def _root(self) -> Path:
        if self.root is None:
            raise UserError(f"data=folder needs the folder that holds your class folders: type {FORM}")
        root = given_path(self.root, "data.root", "/path/to/images").absolute()
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise UserError(f"data.root={self.root} {what}: expected a folder with one folder a class; type {FORM}")
        return root


def _joined(stored: np.ndarray, rows: Sequence[int], cache: Path) -> Tensor:
    """Return these rows of the store: as they lie there in one piece, else copied.

    What is large is copied to a file without a name, which the system takes away with the process, and not to memory.
    """
    start, stop = rows[0], rows[-1] + 1
    if stop - start == len(rows):
        return torch.from_numpy(stored[start:stop])
    shape = (len(rows), *stored.shape[1:])
    if np.prod(shape) <= IN_MEMORY:
        return torch.from_numpy(stored[rows])
    with writing(cache), tempfile.TemporaryFile(dir=cache) as file:
        file.truncate(int(np.prod(shape)))
        copied = np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)
        for i in range(0, len(rows), 1024):
            copied[i : i + 1024] = stored[rows[i : i + 1024]]
    return torch.from_numpy(copied)
