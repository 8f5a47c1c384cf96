"""Images with the label that each was given, in one picture, ordered by label and probability."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from metalab.serving.predict import Prediction

ACROSS, SIDE, GAP, LINE = 10, 96, 6, 13  # images in a row; pixels: an image's side, between two, a line of text
NONE = "none of these"


def contact_sheet(predictions: Sequence["Prediction"], total: int) -> Image.Image:
    """Draw predictions that have pixels, the most certain of each label first; total: how many images there were."""
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 10)
    ordered = sorted(predictions, key=lambda p: (not p.label, p.label, -p.probability))
    cell, tall = SIDE + GAP, SIDE + 2 * LINE + GAP
    rows = -(-len(ordered) // ACROSS)
    head = LINE + 2 * GAP
    page = Image.new("RGB", (cell * min(ACROSS, max(len(ordered), 5)) + GAP, head + tall * rows), "white")
    ink = ImageDraw.Draw(page)
    some = "" if total == len(ordered) else f"{len(ordered)} of "
    ink.text((GAP, GAP), f"{some}{total} images, by label", "black", font)
    for i, p in enumerate(ordered):
        x, y = GAP + cell * (i % ACROSS), head + tall * (i // ACROSS)
        page.paste(_thumbnail(p.pixels), (x, y))
        ink.text((x, y + SIDE), _fitted(p.label or NONE, font), "black" if p.label else "#b00020", font)
        ink.text((x, y + SIDE + LINE), f"{100 * p.probability:.1f} %", "#666666", font)
    return page


def _thumbnail(pixels: np.ndarray | None) -> Image.Image:
    assert pixels is not None
    image = Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)))
    enlarged = image.height < SIDE
    return image.resize((SIDE, SIDE), Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX).convert("RGB")


def _fitted(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Return the text, cut where it is wider than an image."""
    if font.getlength(text) <= SIDE:
        return text
    while text and font.getlength(f"{text}…") > SIDE:
        text = text[:-1]
    return f"{text}…"
