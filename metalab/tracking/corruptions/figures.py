"""Pictures of common corruptions: accuracy by kind and severity, and one image under all of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from metalab.tracking.episode_sheet import written
from metalab.tracking.figures import PLAIN

SIDE, GAP, LABELS, HEAD = 96, 4, 170, 26  # pixels: of an image on the sheet, about, between two, of words beside them


@PLAIN
def chart(cells: Mapping[str, Sequence[float]], columns: Sequence[str], title: str) -> Figure:
    """Draw accuracies, fractions, as a coloured table in per cent: a row a kind, a column a severity or a run."""
    values = 100 * np.asarray(list(cells.values()), float)
    figure = Figure(figsize=(2.4 + 0.95 * len(columns), 1.6 + 0.32 * len(values)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value < 60 else "black"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(values)), [name.replace("_", " ") for name in cells], fontsize=9)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=10)
    axes.spines[:].set_visible(False)
    figure.colorbar(shown, ax=axes, label="accuracy, %", fraction=0.05)
    return figure


def sheet(images: Mapping[str, Sequence[np.ndarray]], columns: Sequence[str]) -> np.ndarray:
    """Draw one image under every kind, a row each; images: by kind, [C,H,W] in [0,1] a column; uint8 [H,W,3]."""
    thumbs = {kind: [_thumb(image) for image in row] for kind, row in images.items()}
    height, width = next(iter(thumbs.values()))[0].shape[:2]
    drawn = np.full((HEAD + (height + GAP) * len(thumbs), LABELS + (width + GAP) * len(columns), 3), 255, np.uint8)
    words = [(LABELS + i * (width + GAP), 6, name, "black", 13) for i, name in enumerate(columns)]
    for row, (kind, pictures) in enumerate(thumbs.items()):
        top = HEAD + row * (height + GAP)
        words.append((8, top + height // 2 - 8, kind.replace("_", " "), "black", 13))
        for column, picture in enumerate(pictures):
            left = LABELS + column * (width + GAP)
            drawn[top : top + height, left : left + width] = picture
    return written(drawn, words)


def _thumb(image: np.ndarray) -> np.ndarray:
    """Return an image as uint8 [h,w,3], each pixel enlarged to a square where it is small."""
    factor = max(1, round(SIDE / image.shape[2]))
    pixels = np.moveaxis((255 * image.clip(0, 1)).round().astype(np.uint8), 0, -1).repeat(factor, 0).repeat(factor, 1)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
