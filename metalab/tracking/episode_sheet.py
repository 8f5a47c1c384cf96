"""Draw many episodes on one sheet: support left, queries right, wrong ones marked with what was predicted.

The images are pasted into one array, which matplotlib draws at once: a picture of a thousand images takes no minute.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from metalab.tracking.figures import GREY, PLAIN, RIGHT, WRONG

CLASSES, SUPPORT, QUERIES = 10, 3, 8  # the most that one episode shows
SIDE = 48  # pixels of an image on the sheet, about
FRAME, GAP, LABELS, LINE, HEAD = 3, 5, 170, 16, 26  # pixels: of a frame, between images, for names, predictions, titles
DPI = 100


class SheetEpisode(NamedTuple):
    """One episode: images uint8 or float [N,C,H,W] as arrays, the floats in [0,1]; labels int [N], 0..way-1."""

    title: str
    names: Sequence[str]  # [way]
    support_x: np.ndarray
    support_y: np.ndarray
    query_x: np.ndarray
    query_y: np.ndarray
    predicted: np.ndarray  # int [N] of the queries; -1: the prediction was no number


@PLAIN
def episode_sheet(episodes: Sequence[SheetEpisode], title: str) -> Figure:
    """Draw the episodes in two columns, a row a class, the wrong queries of each first.

    At most CLASSES classes, SUPPORT support images and QUERIES queries a class are drawn. A number beside a cross is
    the predicted class's, whose name stands beside its row.
    """
    panels = [_panel(each) for each in episodes]
    columns = [panels[0::2], panels[1::2]]
    wide = max(panel.shape[1] for panel, _ in panels)
    high = max(sum(len(panel) for panel, _ in column) for column in columns) + 2 * HEAD
    sheet = np.full((high, 2 * wide, 3), 255, np.uint8)
    words = [(8.0, HEAD, title, "black", 12)]
    for x, column in zip((0, wide), columns, strict=True):
        y = 2 * HEAD
        for panel, said in column:
            sheet[y : y + len(panel), x : x + panel.shape[1]] = panel
            words += [(x + left, y + top, text, colour, size) for left, top, text, colour, size in said]
            y += len(panel)
    figure = Figure(figsize=(sheet.shape[1] / DPI, high / DPI), dpi=DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(sheet, interpolation="nearest", aspect="auto", extent=(0, sheet.shape[1], high, 0))
    axes.axis("off")
    for left, top, text, colour, size in words:
        axes.text(left, top, text, color=colour, fontsize=size, va="baseline")
    return figure


def _panel(episode: SheetEpisode) -> tuple[np.ndarray, list[tuple[float, float, str, str, float]]]:
    """Return an episode's pixels uint8 [H,W,3], and the words upon them: left, top, text, colour, size."""
    thumbs = [_thumbs(images) for images in (episode.support_x, episode.query_x)]
    side, rows = thumbs[1].shape[1:3], range(min(len(episode.names), CLASSES))
    high, wide = side[0] + 2 * FRAME + LINE, side[1] + 2 * FRAME + GAP
    shots = min(SUPPORT, int(np.bincount(episode.support_y).max()))
    start = LABELS + shots * wide + 3 * GAP
    panel = np.full((HEAD + high * len(rows) + HEAD, start + QUERIES * wide + 4 * GAP, 3), 255, np.uint8)
    words = [(8.0, HEAD - 10.0, episode.title, "black", 10.0)]
    right = episode.predicted == episode.query_y
    for row in rows:
        top = HEAD + row * high
        words.append((8.0, top + side[0] / 2 + 8, f"{row}  {_short(episode.names[row])}", GREY, 8.5))
        for column, i in enumerate(np.flatnonzero(episode.support_y == row)[:shots]):
            _paste(panel, thumbs[0][i], GREY, top, LABELS + column * wide)
        asked = np.flatnonzero(episode.query_y == row)
        for column, i in enumerate(asked[np.argsort(right[asked], kind="stable")][:QUERIES]):
            left = start + column * wide
            _paste(panel, thumbs[1][i], RIGHT if right[i] else WRONG, top, left)
            if not right[i]:
                taken = "✗ none" if episode.predicted[i] < 0 else f"✗ {episode.predicted[i]}"
                words.append((left + 2.0, top + high - 4.0, taken, WRONG, 8.5))
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
