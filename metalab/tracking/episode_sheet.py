"""Draw many episodes on one sheet: support left, queries right, wrong ones marked with what was predicted.

Pixels are pasted and words are written by Pillow: matplotlib takes seconds for hundreds of each.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CLASSES, SUPPORT, QUERIES = 10, 3, 8  # the most that one episode shows
SIDE = 48  # pixels of an image on the sheet, about
FRAME, GAP, LABELS, LINE, HEAD = 3, 5, 170, 16, 26  # pixels: of a frame, between images, for names, predictions, titles
RIGHT, WRONG, GREY = "#1b8a3a", "#d62728", "#666666"

Word = tuple[int, int, str, str, int]  # left, top, text, colour, size in pixels


class SheetEpisode(NamedTuple):
    """One episode: images uint8 or float [N,C,H,W] as arrays, the floats in [0,1]; labels int [N], 0..way-1."""

    title: str
    names: Sequence[str]  # [way]
    support_x: np.ndarray
    support_y: np.ndarray
    query_x: np.ndarray
    query_y: np.ndarray
    predicted: np.ndarray  # int [N] of the queries; -1: the prediction was no number


def episode_sheet(episodes: Sequence[SheetEpisode], title: str) -> np.ndarray:
    """Draw the episodes in two columns, a row a class, the wrong queries of each first; return uint8 [H,W,3].

    At most CLASSES classes, SUPPORT support images and QUERIES queries a class are drawn. A number beside a cross is
    the predicted class's, whose name stands beside its row.
    """
    panels = [_panel(each) for each in episodes]
    columns = [panels[0::2], panels[1::2]]
    wide = max(panel.shape[1] for panel, _ in panels)
    high = max(sum(len(panel) for panel, _ in column) for column in columns) + 2 * HEAD
    sheet = np.full((high, 2 * wide, 3), 255, np.uint8)
    words: list[Word] = [(8, 8, title, "black", 16)]
    for x, column in zip((0, wide), columns, strict=True):
        y = 2 * HEAD
        for panel, said in column:
            sheet[y : y + len(panel), x : x + panel.shape[1]] = panel
            words += [(x + left, y + top, text, colour, size) for left, top, text, colour, size in said]
            y += len(panel)
    return written(sheet, words)


def written(sheet: np.ndarray, words: Sequence[Word]) -> np.ndarray:
    """Return the sheet with the words upon it, in the font that matplotlib brings along."""
    from matplotlib import get_data_path  # here, for --help does without it

    font = str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    picture = Image.fromarray(sheet)
    pen, fonts = ImageDraw.Draw(picture), {size: ImageFont.truetype(font, size) for size in {word[4] for word in words}}
    for left, top, text, colour, size in words:
        pen.text((left, top), text, fill=colour, font=fonts[size])
    return np.asarray(picture)


def _panel(episode: SheetEpisode) -> tuple[np.ndarray, list[Word]]:
    """Return an episode's pixels uint8 [H,W,3], and the words upon them."""
    thumbs = [_thumbs(images) for images in (episode.support_x, episode.query_x)]
    side, rows = thumbs[1].shape[1:3], range(min(len(episode.names), CLASSES))
    high, wide = side[0] + 2 * FRAME + LINE, side[1] + 2 * FRAME + GAP
    shots = min(SUPPORT, int(np.bincount(episode.support_y).max()))
    start = LABELS + shots * wide + 3 * GAP
    panel = np.full((HEAD + high * len(rows) + HEAD, start + QUERIES * wide + 4 * GAP, 3), 255, np.uint8)
    words: list[Word] = [(8, 4, episode.title, "black", 14)]
    right = episode.predicted == episode.query_y
    for row in rows:
        top = HEAD + row * high
        words.append((8, top + side[0] // 2 - 4, f"{row}  {_short(episode.names[row])}", GREY, 12))
        for column, i in enumerate(np.flatnonzero(episode.support_y == row)[:shots]):
            _paste(panel, thumbs[0][i], GREY, top, LABELS + column * wide)
        asked = np.flatnonzero(episode.query_y == row)
        for column, i in enumerate(asked[np.argsort(right[asked], kind="stable")][:QUERIES]):
            left = start + column * wide
            _paste(panel, thumbs[1][i], RIGHT if right[i] else WRONG, top, left)
            if not right[i]:
                taken = "✗ none" if episode.predicted[i] < 0 else f"✗ {episode.predicted[i]}"
                words.append((left + 2, top + side[0] + 2 * FRAME + 1, taken, WRONG, 12))
    return panel, words


def _thumbs(images: np.ndarray) -> np.ndarray:
    """Return images as uint8 [N,h,w,3], enlarged by a whole number, or thinned out, to about SIDE."""
    pixels = images if images.dtype == np.uint8 else (255 * images.clip(0, 1)).round().astype(np.uint8)
    factor, step = max(1, round(SIDE / pixels.shape[3])), max(1, pixels.shape[3] // (2 * SIDE))
    pixels = np.moveaxis(pixels[:, :, ::step, ::step], 1, -1).repeat(factor, 1).repeat(factor, 2)
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def _paste(panel: np.ndarray, image: np.ndarray, colour: str, top: int, left: int) -> None:
    """Put an image into the panel, framed."""
    h, w = image.shape[:2]
    framed = panel[top : top + h + 2 * FRAME, left : left + w + 2 * FRAME]
    framed[:] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    framed[FRAME:-FRAME, FRAME:-FRAME] = image


def _short(name: str, letters: int = 24) -> str:
    return name if len(name) <= letters else f"…{name[1 - letters :]}"
