"""The one store: images decoded once into memory-mapped uint8, one file a split, with their meaning beside them."""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_dir

from metalab.config.paths import given_path
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.storage.lock import locked
from metalab.data.storage.writer import Record, watched, write

FORMAT = 1  # raised whenever the layout changes, so that older stores are rebuilt
META = "store.json"
_hashing = ContextVar("hashing", default=False)  # the files of a store that is opened; each start would be slow
log = logging.getLogger("metalab.data")


class NoSplit(UserError):
    """The data set has no such split, and perhaps others; another UserError says that none can be had."""


@dataclass(frozen=True, eq=False)
class Store:
    """A finished store, opened: its images stay on the disk until they are touched."""

    folder: Path
    recipe: dict[str, Any]
    splits: dict[str, dict[str, Any]]  # per split: file, sha256, ids, names, count, files
    images: dict[str, np.ndarray]  # per split: uint8 [N,C,H,W], memory-mapped
    facts: dict[str, Any] = field(default_factory=dict)  # what was found while it was built

    def split(self, name: str) -> Split:
        """Return one split, its images mapped and not copied; raise NoSplit naming the splits there are."""
        if name not in self.splits:
            raise NoSplit(f"{self.folder.name} has no split '{name}'; it has: {', '.join(self.splits)}.")
        kept = self.splits[name]
        count = torch.tensor(kept["count"], dtype=torch.int64)
        return Split(
            images=torch.from_numpy(self.images[name]),
            first=count.cumsum(0) - count,
            count=count,
            ids=list(kept["ids"]),
            names=list(kept["names"]),
            files=list(kept["files"]),
            image_ids=list(kept.get("image_ids", [])),  # stores of older versions have none
        )


def cache_folder(cache: str | None) -> Path:
    """Return the absolute folder stores are kept in: `cache`, else METALAB_CACHE, else the user's cache folder."""
    try:
        folder = Path(cache or os.environ.get("METALAB_CACHE") or user_cache_dir("metalab")).expanduser().absolute()
    except RuntimeError:  # a container's user may have none
        raise UserError(
            "There is no home folder, where prepared data would be kept. Set METALAB_CACHE=/path/to/a/folder, or type "
            "data.cache=/path/to/a/folder."
        ) from None
    if folder.exists() and not folder.is_dir():
        raise UserError(f"The cache {folder} is a file; a folder is needed. Type data.cache=/path/to/a/folder.")
    if cache is not None:
        given_path(cache, "data.cache", "/path/to/a/folder")
    return folder


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an error of the disk below `folder` (full, read-only) into a UserError that says what to type."""
    try:
        yield
    except OSError as error:
        # a full disk names no file; what has no number is Pillow's, and other files are the source's own trouble
        place = folder if error.filename is None else Path(os.fsdecode(error.filename))
        elsewhere = not (place.is_relative_to(folder) or folder.is_relative_to(place))  # above: it cannot be made
        if error.errno is None or elsewhere:
            raise
        raise UserError(
            f"{folder} cannot be written to ({error.strerror or error}); the prepared data needs a folder with room "
            "that you may write to. Type data.cache=/path/to/a/folder, or set METALAB_CACHE."
        ) from error


@contextlib.contextmanager
def verifying() -> Iterator[None]:
    """Have every store that is opened within checked by the hashes of its files, too: one with others is damaged."""
    before = _hashing.set(True)
    try:
        yield
    finally:
        _hashing.reset(before)


def open_or_build(
    folder: Path,
    recipe: dict[str, Any],
    records: Callable[[], Iterable[Record]],
    total: int | None = None,
    facts: dict[str, Any] | None = None,
) -> Store:
    """Return the store in `folder`; build it first where it is missing, damaged or made by another recipe.

    `records` yields class by class, every image of one shape; a recipe is anything JSON can hold; `total` is the
    number of records where that is known, for the progress bar; `facts` are kept beside the images as they are when
    the last record has come.
    Two processes may call this at once: one builds, the other waits. UserError where the folder cannot be written.
    """
    recipe = json.loads(json.dumps(recipe))
    store, why = _checked(folder, recipe)
    if store is None:
        with writing(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                store, why = _checked(folder, recipe)  # another process may have built it meanwhile
                if store is None:
                    log.info("Preparing %s: %s.", folder, why)
                    _build(folder, recipe, records, total, {} if facts is None else facts)
                    store, why = _checked(folder, recipe)
    if store is None:
        raise RuntimeError(f"{folder} was built just now, and yet {why}")
    return store


def open_existing(folder: Path, settings: dict[str, Any]) -> Store | None:
    """Return the sound store in `folder` whose recipe holds these settings, whatever source it was made from."""
    store = _open(folder)
    if isinstance(store, str):
        return None
    return store if json.loads(json.dumps(settings)).items() <= store.recipe.items() else None


def explain_unusable(folder: Path) -> str:
    """Return in words why there is no store in `folder` that could be used."""
    return store if isinstance(store := _open(folder), str) else "the store was made with other settings"


def _checked(folder: Path, recipe: dict[str, Any]) -> tuple[Store | None, str]:
    """Return the store if it is sound and of this recipe, else why not."""
    store = _open(folder)
    if isinstance(store, str):
        return None, store
    changed = [key for key in {**store.recipe, **recipe} if not _same(store.recipe.get(key), recipe.get(key))]
    words = [f"{key} was {_short(store.recipe.get(key))} and is {_short(recipe.get(key))}" for key in changed]
    return (None, "the recipe has changed: " + ", ".join(words)) if words else (store, "")


def _same(kept: Any, wanted: Any) -> bool:
    """Compare what a store was made from with what it would be; what an older version did not note does not count."""
    if isinstance(kept, dict) and isinstance(wanted, dict):
        return all(kept[key] == wanted.get(key) for key in kept)
    return kept == wanted


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _open(folder: Path) -> Store | str:
    """Return the store, or in words why there is none; sizes of files are checked, in `verifying` hashes, too."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            return f"the store has format {meta['format']} where this version writes {FORMAT}"
        images = {}
        for name, kept in meta["splits"].items():
            shape = (sum(kept["count"]), *meta["shape"])
            path = folder / kept["file"]
            if (size := path.stat().st_size) != math.prod(shape) or len(kept["files"]) != shape[0]:
                return f"the store is damaged: {path.name} has {size:,} bytes instead of {math.prod(shape):,}"
            # copy on write: torch asks for writable memory, and nobody can spoil the file through it
            images[name] = np.memmap(path, dtype=np.uint8, mode="c", shape=shape)
            if _hashing.get() and hashlib.sha256(images[name]).hexdigest() != kept["sha256"]:
                return f"the store is damaged: {path.name} has other content than was written"
        return Store(folder, meta["recipe"], meta["splits"], images, meta.get("facts", {}))
    except FileNotFoundError as error:
        return f"the store is damaged: {error.filename} is missing" if folder.exists() else "there is none yet"
    except (ValueError, KeyError, TypeError, AttributeError, NotADirectoryError) as error:
        return f"the store is damaged: {META} cannot be understood ({error})"


def _build(
    folder: Path,
    recipe: dict[str, Any],
    records: Callable[[], Iterable[Record]],
    total: int | None,
    facts: dict[str, Any],
) -> None:
    """Write a whole store under another name, then rename it: what is found under `folder` is finished."""
    work, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    try:
        for leftover in (work, old):  # of a process that was killed; we hold the lock, so nobody is at work here
            if leftover.exists():
                shutil.rmtree(leftover)
        work.mkdir()
        meta = {"format": FORMAT, "recipe": recipe, **write(work, watched(records(), folder.name, total))}
        meta["facts"] = facts
        if not meta["splits"]:
            raise UserError(f"No image was found for {folder.name}; is data.root the right folder?")
        (work / META).write_text(json.dumps(meta), encoding="utf-8")
        if folder.is_dir():
            folder.rename(old)
        elif folder.exists():
            folder.unlink()
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
