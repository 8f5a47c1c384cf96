"""Draw what people look at: an episode with its predictions, and accuracy after each inner step."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.style
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from torch import Tensor

RIGHT, WRONG, GREY, BLUE = "#1b8a3a", "#d62728", "#666666", "#1f5fa8"
CLASSES, SUPPORT, QUERIES = 10, 5, 10  # the most that one picture shows
PITCH = 1.08  # from one image to the next, in image widths
PLAIN = matplotlib.style.context("default")  # matplotlib's own settings, not those of a user's matplotlibrc


@PLAIN
def episode(
    support_x: "Tensor",
    support_y: "Tensor",
    query_x: "Tensor",
    query_y: "Tensor",
    predicted: "Tensor",
    title: str,
) -> Figure:
    """Draw one episode: a row a class, support left, queries right, framed by whether the prediction is right.

    Images are [N,C,H,W] in [0,1] with C 1 or 3, labels and predictions int [N]. At most 10 classes, 5 support images
    and 10 queries a class are drawn, the first of each; a line below says how many there are. Without a support they
    are called images.
    """
    what = "queries" if len(support_y) else "images"
    labels, queries, guesses = _array(query_y), _array(query_x), _array(predicted)
    right = guesses == labels
    classes = np.unique(labels)
    rows = classes[:CLASSES]
    support, query = ([np.flatnonzero(_array(y) == row) for row in rows] for y in (support_y, query_y))
    left, across = (min(limit, max(map(len, n))) for limit, n in ((SUPPORT, support), (QUERIES, query)))
    start = PITCH * (left + 0.5) if left else 0.0  # where the queries begin
    step = queries.shape[2] / queries.shape[3] + 0.36  # from row to row, with room for the prediction
    wide, high = max(start + max(PITCH * across, 4.2), 8.0), step * len(rows)  # the headings have a width, too
    figure, axes = _sheet(wide, high)
    for top, label, known, asked in zip(step * np.arange(len(rows)), rows, support, query, strict=True):
        axes.text(-0.15, top + (step - 0.36) / 2, f"class {label}", ha="right", va="center", fontsize=9)
        for column, i in enumerate(known[:left]):
            _image(axes, _array(support_x)[i], PITCH * column, top, GREY, 0.8)
        for column, i in enumerate(asked[:across]):
            _answer(axes, queries[i], int(guesses[i]), bool(right[i]), start + PITCH * column, top)
    axes.text(0, -0.55, title, fontsize=11, weight="bold")
    facts = f"{right.sum()} of {len(right)} {what} right ({100 * right.mean():.1f} %)"
    shown = _shown(len(rows), len(classes), left, support, across, query, what)
    left_head, head = "support" if left else "", f"{what}, with the predicted class"
    for x, y, words in ((0, -0.12, left_head), (start, -0.12, head), (0, high + 0.35, facts), (0, high + 0.75, shown)):
        axes.text(x, y, words, fontsize=9, color=GREY)
    return figure


def _sheet(wide: float, high: float) -> tuple[Figure, Axes]:
    """Return an empty picture, in units of an image's width, with room for headings."""
    figure = Figure(figsize=(0.62 * (wide + 1.3), 0.62 * (high + 2.0)), dpi=110)  # 0.62 inch a unit
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(-1.2, wide + 0.1), ylim=(high + 1.05, -0.95), aspect="equal")
    axes.axis("off")
    return figure, axes


def _answer(axes: Axes, image: np.ndarray, predicted: int, right: bool, x: float, top: float) -> None:
    """Draw a query, framed by whether its prediction below it is right."""
    colour, mark = (RIGHT, "✓") if right else (WRONG, "✗")
    bottom = _image(axes, image, x, top, colour, 2.2)
    axes.text(x + 0.5, bottom + 0.06, f"{mark} {predicted}", ha="center", va="top", fontsize=8, color=colour)


@PLAIN
def adaptation_curve(accuracies: Sequence[float], ci95: Sequence[float], title: str, way: int) -> Figure:
    """Draw accuracy after 0, 1, ... inner steps with its 95 % confidence band, and chance, 1 / way.

    Accuracies and half-widths are fractions in 0..1, one an inner step; the axis is in per cent. One accuracy alone
    (a metric method adapts in no step) is drawn as a point.
    """
    mean, half = 100 * np.asarray(accuracies, float), 100 * np.asarray(ci95, float)
    steps = np.arange(len(mean))
    figure = Figure(figsize=(6.4, 4.0), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    low, high = np.maximum(mean - half, 0), np.minimum(mean + half, 100)
    bar = [mean - low, high - mean] if len(mean) == 1 and np.isfinite(half).all() else None
    axes.errorbar(steps, mean, bar, fmt="o-", color=BLUE, capsize=4, markersize=4)
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.2, lw=0)
    aside = (9, 9) if len(mean) > 1 else (32, 0)  # beside the interval, not on it
    place = "bottom" if len(mean) > 1 else "center"
    axes.annotate(f"{mean[-1]:.1f} %", (steps[-1], mean[-1]), aside, textcoords="offset points", ha="center", va=place)
    chance = 100 / way
    axes.axhline(chance, color=GREY, ls="--", lw=1)
    below = chance > 8  # where the axis leaves room for the words
    axes.annotate(
        f"chance {chance:.1f} %",
        (1, chance),
        (-4, -4 if below else 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="top" if below else "bottom",
        color=GREY,
    )
    interval = ", 95 % CI" if np.isfinite(half).any() else ""
    axes.set(title=title, xlabel="inner steps", ylabel=f"query accuracy{interval}", ylim=(0, 105))
    axes.set_xlim(-0.5, len(mean) - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


@PLAIN
def robustness_curve(
    curves: Mapping[str, Sequence[tuple[float, float, float]]], norm: str, title: str, way: int | str
) -> Figure:
    """Draw accuracy over the size of the perturbation with 95 % bands, a line an attack, and chance, 1 / way.

    way: words where episodes differ in it, whose chance is not one number.

    Each curve is a list of (eps in 255ths, accuracy, half-width), the last two fractions in 0..1.
    """
    figure = Figure(figsize=(6.4, 4.0), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for label, points in curves.items():
        eps, mean, half = np.asarray(points, float).T
        worst = {"ls": ":", "color": "black", "lw": 2} if label.endswith("all") else {}  # it lies on the strongest
        [line] = axes.plot(eps, 100 * mean, marker="o", label=label, markersize=4, **worst)
        low, high = np.maximum(mean - half, 0), np.minimum(mean + half, 1)
        axes.fill_between(eps, 100 * low, 100 * high, color=line.get_color(), alpha=0.2, lw=0)
    if isinstance(way, int):
        axes.axhline(100 / way, color=GREY, ls="--", lw=1, label=f"chance {100 / way:.1f} %")
    measure = {"linf": "largest change of a pixel", "l2": "L2 norm of the change"}[norm]
    axes.set(title=title, xlabel=f"{measure}, 255ths", ylabel="query accuracy, 95 % CI", ylim=(0, 105))
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


@PLAIN
def pixels(figure: Figure) -> np.ndarray:
    """Return a picture as uint8 [H,W,3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@PLAIN
def svg(figure: Figure) -> str:
    """Return a picture as SVG; the same picture is the same text."""
    file = io.StringIO()
    with rc_context({"svg.hashsalt": "metalab"}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    return file.getvalue()


@PLAIN
def save(figure: Figure, path: Path) -> None:
    """Write a picture as PNG."""
    FigureCanvasAgg(figure).print_png(path)


def _array(tensor: "Tensor") -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _image(axes: Axes, image: np.ndarray, x: float, y: float, colour: str, width: float) -> float:
    """Draw one image [C,H,W], 1 wide, with its upper left corner at x, y; return where it ends below."""
    bottom = y + image.shape[1] / image.shape[2]
    pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    axes.imshow(pixels.clip(0, 1), cmap="gray", vmin=0, vmax=1, extent=(x, x + 1, bottom, y), interpolation="nearest")
    axes.add_patch(Rectangle((x, y), 1, bottom - y, fill=False, edgecolor=colour, linewidth=width))
    return bottom


def _shown(rows: int, classes: int, left: int, support: list, across: int, query: list, what: str) -> str:
    """Say what is left out of the picture."""
    counts = (
        (rows, classes, "classes"),
        (left, max(map(len, support)), "support images a class"),
        (across, max(map(len, query)), f"{what} a class"),
    )
    parts = [f"{shown} of {there} {each}" for shown, there, each in counts if shown < there]
    return "shown: " + ", ".join(parts) if parts else ""
