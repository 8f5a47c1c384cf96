"""The user's own images: one folder a class."""

import hashlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

from metalab.data.apart import grouped
from metalab.data.decode import Picture, decode
from metalab.data.identity import IMAGE, OWN, refuse_copies, refuse_same_names, refuse_twins
from metalab.data.store import NoSplit, Record, Store, cache_folder, prepared
from metalab.data.tree import SPLITS, Tree, few, read_tree, shown
from metalab.errors import UserError
from metalab.interfaces import Split

FORM = "data.root=/path/to/images"
log = logging.getLogger("metalab.data")


@final
@dataclass(frozen=True)
class Folder:
    """Read the class folders of `root`, or of its train/ val/ test/ folders where it has them.

    Without these, whole classes go to train, val and test by `ratios` and `seed`, at least two to each. Images at
    any depth below a class folder are the class's, uint8 [channels,size,size]; symbolic links are followed, hidden
    files passed over. An unreadable image is named in a warning and left out, or an error where `strict`. Each image
    has an id, a digest of its content, by which a net that was trained on it knows it again, under another name and
    among others; one that stands in two splits is refused, or noted where `allow_copies`; so is a class name, and
    `allow_same_names`. `group` is of file names, relative to root: images of one group, such as one video's, never
    stand on both sides of an episode. Raises UserError.
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

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 512:
            raise UserError(f"data.size={self.size}: expected 8 to 512 pixels; type data.size=84")
        if self.channels not in (1, 3):
            raise UserError(f"data.channels={self.channels}: expected 1 (grey) or 3 (RGB); type data.channels=3")
        if self.seed < 0:
            raise UserError(f"data.seed={self.seed}: expected 0 or more; type data.seed=0")
        if len(self.ratios) != 3 or min(self.ratios) < 0 or abs(sum(self.ratios) - 1) > 1e-6:
            raise UserError(
                f"data.ratios={list(self.ratios)}: expected three shares of the classes, for train, val and test, "
                "each 0 or more, that add up to 1; type data.ratios=[0.64,0.16,0.20]"
            )

    def load(self, split: str) -> Split:
        """Return the classes of train, val or test; decode the images on first use and after a change."""
        notes = [refuse_same_names(self._tree.images, self.allow_same_names)]
        found = self.unrefused(split)
        kept = self._store.splits
        refuse_twins({name: (each["ids"], each["names"]) for name, each in kept.items()})
        notes.append(
            refuse_copies({name: (each["image_ids"], each["files"]) for name, each in kept.items()}, self.allow_copies)
        )
        left_out = self.unreadable(split)
        if left_out:  # said at every start, not only at the one that decodes
            listed = len(found.files) + len(left_out)
            log.warning(
                "%d of the %d %s images cannot be read and are left out: %s",
                *(len(left_out), listed, split, few(left_out)),
            )
            notes.append(f"{len(left_out)} of {listed} images cannot be read and are left out")
        return grouped(replace(found, note="; ".join(filter(None, notes))), self.group)

    def unrefused(self, split: str) -> Split:
        """Return the split with whatever it shares with another one, for a report; `load` refuses that."""
        if not self._tree.images.get(split):
            raise NoSplit(f"data.ratios={list(self.ratios)} leaves no class for {split}: type a share above 0")
        return self._store.split(split)

    def unreadable(self, split: str) -> list[str]:
        """Return the files of the split that cannot be read, sorted."""
        listed = {shown(file) for files in self._tree.images[split].values() for file in files}
        return sorted(listed - set(self._store.splits[split]["files"] if split in self._store.splits else []))

    @property
    def excused(self) -> tuple[str, ...]:
        """What the names of classes begin with that may have one name in two splits."""
        return ("",) if self.allow_same_names else ()

    @cached_property
    def _tree(self) -> Tree:
        return read_tree(self._root(), self.ratios, self.seed)

    @cached_property
    def _store(self) -> Store:
        root, tree = self._root(), self._tree
        settings = {"root": ascii(str(root)), "size": self.size, "channels": self.channels, "strict": self.strict}
        settings |= {"ratios": list(self.ratios), "seed": self.seed, "identity": "images"}
        folder = cache_folder(self.cache) / f"folder-{hashlib.sha256(repr(settings).encode()).hexdigest()[:16]}"
        return prepared(folder, _recipe(root, tree, settings), lambda: self._records(root, tree))

    def _root(self) -> Path:
        if self.root is None:
            raise UserError(f"data=folder needs the folder that holds your class folders: type {FORM}")
        root = Path(self.root).expanduser().absolute()
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise UserError(f"data.root={self.root} {what}: expected a folder with one folder a class; type {FORM}")
        return root

    def _records(self, root: Path, tree: Tree) -> Iterator[Record]:
        for remark in tree.remarks:
            log.warning("%s: %s", root, remark)
        unread: list[str] = []
        files: dict[str, list[str]] = {}  # digest of an image -> its files
        classes = [(split, name, listed) for split in SPLITS for name, listed in tree.images[split].items()]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for split, name, listed in classes:
                pictures: dict[str, Picture] = {}
                tried = pool.map(lambda file: _try(root / file, self.size, self.channels), listed)
                for file, picture in zip(map(shown, listed), tried, strict=True):
                    if isinstance(picture, str):
                        unread.append(f"{file} ({picture})")
                    else:
                        pictures[file] = picture
                        files.setdefault(picture.digest, []).append(file)
                if not pictures:
                    continue
                class_id = _class_id(pictures)
                for file, p in pictures.items():
                    yield Record(p.pixels, class_id, shown(name), split, file, f"{IMAGE}{p.digest[:16]}")
        _report(unread, files, self.strict)


def _recipe(root: Path, tree: Tree, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and the names, sizes and times of change of all images, as one hash."""
    listing = hashlib.sha256()
    files = [file for classes in tree.images.values() for listed in classes.values() for file in listed]
    for file in sorted(files):
        path = root / file
        stat = path.stat() if path.exists() else path.lstat()  # a link to nowhere is found unreadable later
        listing.update(f"{file!a} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return {**settings, "images": len(files), "listing": listing.hexdigest()}


def _class_id(pictures: dict[str, Picture]) -> str:
    """Return the class's global id, a digest of its images: that of another folder only where it has the same ones."""
    digests = "\n".join(sorted(picture.digest for picture in pictures.values()))
    return OWN + hashlib.sha256(digests.encode()).hexdigest()[:20]


def _report(unread: list[str], files: dict[str, list[str]], strict: bool) -> None:
    """Say which images cannot be read and why, and which occur twice."""
    if unread and strict:
        raise UserError(
            f"{len(unread)} images cannot be read and data.strict=true asks for all of them: {few(unread)}; "
            "mend or remove them, or type data.strict=false to leave them out"
        )
    if unread:
        log.warning("%d images cannot be read: %s", len(unread), few(unread))
    twice = [" = ".join(same) for same in files.values() if len(same) > 1]
    if twice:
        log.warning("%d images occur more than once; support and query may share them: %s", len(twice), few(twice))


def _try(path: Path, size: int, channels: int) -> Picture | str:
    """Return the decoded image, or in words why there is none."""
    try:
        return decode(path, size, channels)
    except Exception as error:  # Pillow's readers raise anything on a broken file; _report names them all
        return f"{type(error).__name__}: {error}".replace(str(path), path.name)
