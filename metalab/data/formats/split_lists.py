"""Which images are of which class and split, in the JSON lists of CoOp (Zhou et al. 2022), split_zhou_NAME.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from metalab.core.errors import UserError
from metalab.data.formats.class_tree import SPLITS


class Entry(NamedTuple):
    """What a table says of one image."""

    where: str  # in the table, in words
    file: str
    name: str  # of its class
    part: str  # train, val, test, or ALL of a table without splits


def is_split_list(path: str) -> bool:
    """Return whether a table is such a file, by its name."""
    return path.lower().endswith(".json")


def split_list(table: Path) -> Iterator[Entry]:
    """Yield the images of {"train": [[file, label, class name], ...], "val": ..., "test": ...}.

    Raises:
        UserError: for a file that cannot be read or is of another form.
    """
    try:
        held: Any = json.loads(table.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"data.labels={table} cannot be read ({error.strerror})") from error
    except ValueError as error:  # of JSON, and of UTF-8
        raise UserError(f"data.labels={table} is no JSON ({error})") from error
    form = f'data.labels={table}: expected {{"train": [["dog/1.jpg", 0, "dog"], ...], "val": ..., "test": ...}}'
    if not isinstance(held, dict) or not held or not set(held) <= set(SPLITS):
        raise UserError(f"{form}, as CoOp's split_zhou_*.json")
    for part, images in held.items():
        for number, image in enumerate(images if isinstance(images, list) else [None], 1):
            match image:
                case [str(file), int(), str(name)] if name.strip():
                    yield Entry(f"image {number} of {part}", file, name.strip(), part)
                case _:
                    raise UserError(f"{form}; image {number} of {part} is {image!r:.80}")
