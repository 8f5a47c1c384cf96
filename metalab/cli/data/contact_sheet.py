"""Rows of small pictures with a label each: classes of a split, an episode, pairs that look alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from metalab.config.schema import Task
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.sampling.build import episode_source

CLASSES, IMAGES = 16, 12  # the most that a sheet shows
SIDE, GAP, LABEL = 64, 4, 15  # pixels: an image's least side, the space between two, the height of a label


class Row(NamedTuple):
    """One line of a sheet; images are uint8 [C,H,W]."""

    label: str
    left: list[np.ndarray]
    right: list[np.ndarray]  # after a gap; may be empty


def classes(split: Split) -> list[Row]:
    """Return up to 16 classes, evenly spaced, with up to 12 images each, turned as the class is."""
    chosen = np.unique(np.linspace(0, len(split.ids) - 1, CLASSES).round().astype(int)).tolist()
    rows = []
    for k in chosen:
        first, count = int(split.first[k]), int(split.count[k])
        turn = 0 if split.turns is None else int(split.turns[k])
        images = [np.rot90(split.images[i].numpy(), turn, (1, 2)) for i in range(first, first + min(count, IMAGES))]
        rows.append(Row(f"{split.names[k]}, {count:,} images", images, []))
    return rows


def episode(split: Split, task: Task, seed: int) -> list[Row]:
    """Return the classes of the first episode of this seed: support left, queries right."""
    if split.by_image:
        raise UserError("data.protocol=images gives no episodes: type what=sheet, or data.protocol=classes")
    if task.draws is not None:
        raise UserError("task=all_way has all classes in one episode, too many for a picture: type task=fixed")
    source = episode_source(task, split, 1, seed, "test", torch.device("cpu"))
    drawn = source(0)
    names = [split.names[k] for k in source.indices(0).classes[0].tolist()]
    parts = []
    for batch in (drawn.support, drawn.query):
        pixels, labels = (batch.x[0] * 255).round().byte().numpy(), batch.y[0].tolist()
        parts.append([[x for x, y in zip(pixels, labels, strict=True) if y == k][:IMAGES] for k in range(len(names))])
    return [Row(f"{k}: {name}", left, right) for k, (name, left, right) in enumerate(zip(names, *parts, strict=True))]


def drawn(rows: list[Row]) -> Image.Image:
    """Return the rows as one picture, small images enlarged by a whole factor, each under its label."""
    height, width = rows[0].left[0].shape[1:]
    factor = max(1, -(-SIDE // max(height, width)))
    across, down = factor * width + GAP, factor * height + GAP + LABEL
    start = across * max(len(row.left) for row in rows) + 3 * GAP  # where the right part begins
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 10)
    wide = start + across * max(len(row.right) for row in rows)
    wide = max([wide, *(int(font.getlength(row.label)) + 2 * GAP for row in rows)])
    page = Image.new("RGB", (wide, down * len(rows) + GAP), "white")
    ink = ImageDraw.Draw(page)
    for number, row in enumerate(rows):
        top = number * down + GAP
        ink.text((GAP, top - 1), row.label, "black", font)
        for images, x in ((row.left, GAP), (row.right, start)):
            for i, pixels in enumerate(images):
                tile = Image.fromarray(
                    np.ascontiguousarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
                )
                page.paste(
                    tile.resize((factor * width, factor * height), Image.Resampling.NEAREST),
                    (x + i * across, top + LABEL),
                )
    return page


def save(page: Image.Image, path: Path) -> None:
    """Write the picture as PNG; UserError where it cannot be written."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        page.save(path, "PNG")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk into a UserError that says what to type."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): type another place as out=") from error
