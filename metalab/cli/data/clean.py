"""`metalab data clean`: what the prepared data takes on the disk, and which of it is to be removed."""

import json
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metalab.config.validate import suggest
from metalab.core.errors import UsageError
from metalab.data.storage.lock import locked
from metalab.data.storage.store import META, writing

LEFT = (".partial", ".old")  # what a process that was killed leaves beside a store
ALL = "all"


class Kept(NamedTuple):
    """One store, or what is left of one."""

    path: Path
    size: int  # bytes
    images: int
    made: str  # the day
    source: str  # where its images came from


def run(words: list[str], cache: Path) -> int:
    """Show the stores and their sizes; remove those that the words name, a store, a data set's or all.

    UsageError where there is no such store. Return the exit code.
    """
    found = stores(cache)
    chosen = _chosen(words, found)
    _show(chosen if words else found, cache)
    if not words:
        print(
            "nothing is removed; type metalab data clean with names from the first column, with the name of a data set "
            "for all of its, or with all. What is removed is prepared again from its source when it is needed"
        )
        return 0
    for each in chosen:
        store = each.path.with_suffix("") if each.path.suffix in LEFT else each.path
        with writing(cache), locked(store):  # while it is prepared, it is waited for
            if each.path.exists():
                shutil.rmtree(each.path)
    print(f"removed {len(chosen)}, {_megabytes(sum(each.size for each in chosen))}")
    return 0


def stores(cache: Path) -> list[Kept]:
    """Return the stores in a cache, largest first; nothing else that may lie there is looked into."""
    folders = [path for path in cache.iterdir() if path.is_dir() and not path.is_symlink()] if cache.is_dir() else []
    found = [kept for path in folders if (kept := _kept(path)) is not None]
    return sorted(found, key=lambda kept: (-kept.size, kept.path.name))


def _kept(path: Path) -> Kept | None:
    """Return what a folder of the cache is; None: no store."""
    meta = _meta(path / META)
    files = [file for file in path.iterdir() if file.is_file()]
    if meta is None and not (path.suffix in LEFT and all(_ours(file) for file in files)):
        return None
    splits = (meta or {}).get("splits", {})
    recipe = (meta or {}).get("recipe", {})
    root = str(recipe.get("root", "")).strip("'\"")
    gone = " (no longer there)" if root and not Path(root).is_dir() else ""
    return Kept(
        path,
        sum(file.stat().st_size for file in files),
        sum(len(kept["files"]) for kept in splits.values()),
        datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).date().isoformat(),
        f"{root}{gone}" if meta else "left behind by a process that was stopped",
    )


def _meta(path: Path) -> dict[str, Any] | None:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        return meta if {"format", "recipe", "splits"} <= meta.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _ours(file: Path) -> bool:
    return file.name == META or file.suffix == ".uint8" or file.name in ("train", "val", "test", "all")


def _chosen(words: list[str], found: list[Kept]) -> list[Kept]:
    chosen = []
    for word in words:
        names = [each for each in found if word in (ALL, each.path.name, each.path.name.partition("-")[0])]
        if not names:
            known = {each.path.name for each in found} | {each.path.name.partition("-")[0] for each in found}
            raise UsageError(f"metalab data clean {word}: there is no such store.{suggest(word, {*known, ALL})}")
        chosen += [each for each in names if each not in chosen]
    return chosen


def _show(kept: list[Kept], cache: Path) -> None:
    table = Table(box=None, header_style="bold")
    for column in ("store", "size", "images", "prepared", "from"):
        table.add_column(column, justify="right" if column in ("size", "images") else "left", overflow="fold")
    for each in kept:
        cells = (each.path.name, _megabytes(each.size), f"{each.images:,}", each.made, each.source)
        table.add_row(*map(escape, cells))
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(table)
    console.print(f"{_megabytes(sum(each.size for each in kept))} in {escape(str(cache))}", soft_wrap=True)
    downloads = cache / "downloads"
    if downloads.is_dir():
        size = sum(file.stat().st_size for file in downloads.rglob("*") if file.is_file())
        console.print(f"beside them {_megabytes(size)} of downloads in {escape(str(downloads))}", soft_wrap=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
