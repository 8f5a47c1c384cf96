"""Writing a store: records come in one by one, and leave as one file of raw uint8 a split."""

import contextlib
import hashlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

log = logging.getLogger("metalab.data")


class Record(NamedTuple):
    """One decoded image on its way into a store."""

    image: np.ndarray  # uint8 [C,H,W]
    class_id: str  # global, "omniglot:Greek/character01"
    name: str  # what people are shown
    split: str  # train, val or test
    file: str  # where the image came from
    image_id: str = ""  # "image:digest" of the user's own, "published:digest" of a benchmark's


@dataclass
class _Column:
    """One split while it is written."""

    raw: BinaryIO
    sha256: Any = field(default_factory=hashlib.sha256)
    classes: dict[tuple[str, str], int] = field(default_factory=dict)  # (id, name) -> number of images
    last: tuple[str, str] | None = None
    files: list[str] = field(default_factory=list)
    image_ids: list[str] = field(default_factory=list)

    def add(self, record: Record) -> None:
        key = (record.class_id, record.name)
        if key != self.last and key in self.classes:
            raise ValueError(f"the images of class {record.name} ({record.class_id}) do not come one after another")
        self.last = key
        self.classes[key] = self.classes.get(key, 0) + 1
        self.files.append(record.file)
        if record.image_id:
            self.image_ids.append(record.image_id)
        data = np.ascontiguousarray(record.image).data
        self.raw.write(data)
        self.sha256.update(data)

    def close(self, folder: Path, split: str) -> dict[str, Any]:
        """Name the file by its content, so that no reader can pair it with the description of another build."""
        self.raw.flush()
        os.fsync(self.raw.fileno())
        file = f"{split}-{self.sha256.hexdigest()[:16]}.uint8"
        (folder / split).rename(folder / file)
        return {
            "file": file,
            "sha256": self.sha256.hexdigest(),
            "ids": [class_id for class_id, _ in self.classes],
            "names": [name for _, name in self.classes],
            "count": list(self.classes.values()),
            "files": self.files,
            "image_ids": self.image_ids,
        }


def write(folder: Path, records: Iterable[Record]) -> dict[str, Any]:
    """Append the images to one file a split as they come; return their shape and what each split holds.

    ValueError where a record is not uint8 [C,H,W] of the first one's shape, or a class comes in two pieces.
    """
    columns: dict[str, _Column] = {}
    shape: list[int] = []
    with contextlib.ExitStack() as stack:
        for record in records:
            shape = shape or list(record.image.shape)
            if record.image.dtype != np.uint8 or len(shape) != 3 or list(record.image.shape) != shape:
                got = f"{record.image.dtype} {list(record.image.shape)}"
                raise ValueError(f"{record.file}: expected uint8 [C,H,W] {shape}, got {got}")
            if record.split not in columns:
                if not re.fullmatch(r"\w+", record.split):
                    raise ValueError(f"'{record.split}' is no name for a split: letters, digits and _ only")
                columns[record.split] = _Column(stack.enter_context(open(folder / record.split, "wb")))
            columns[record.split].add(record)
        return {"shape": shape, "splits": {name: column.close(folder, name) for name, column in columns.items()}}


def watched(records: Iterable[Record], name: str, total: int | None = None) -> Iterator[Record]:
    """Pass the records on, with a progress bar on a terminal and a log line every ten seconds without one."""
    start = said = time.monotonic()
    n = 0
    of = "" if total is None else f" of {total:,}"
    words = TextColumn("{task.description}: {task.completed:,}" + of + " images")
    columns = (SpinnerColumn(), words, BarColumn(), TimeElapsedColumn())
    quiet = not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task(f"Preparing {name}", total=total)
        for n, record in enumerate(records, 1):
            bar.advance(task)
            if quiet and time.monotonic() - said > 10:
                said = time.monotonic()
                log.info("Preparing %s: %d%s images so far.", name, n, of)
            yield record
    log.info("Prepared %s: %d images in %.1f s.", name, n, time.monotonic() - start)
