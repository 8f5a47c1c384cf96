"""Draw what an evaluation shows of its classes: the confusion matrix and the reliability diagram."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from metalab.tracking.figures import BLUE, GREY, PLAIN, WRONG

COUNTED = 20  # classes whose cells have room for a number
LETTERS = 28  # of a class's name that are shown


@PLAIN
def confusion_matrix(counts: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix: rows the true class, columns the predicted one, dark where much of a row is.

    Args:
        counts: whole numbers [K,K]; they stand in the cells of at most COUNTED classes.
        names: [K], of which the first LETTERS are shown.
        title: above it.
    """
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size, classes = max(3.2, 0.17 * len(names) if len(names) > COUNTED else 0.42 * len(names)), range(len(names))
    figure = Figure(figsize=(size + 2.6, size + 2.0), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    letters = 7 if len(names) > COUNTED else 9
    shown = [name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}" for name in map(str, names)]
    axes.set_xticks(classes, shown, rotation=90, fontsize=letters)
    axes.set_yticks(classes, shown, fontsize=letters)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if len(names) <= COUNTED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            dark = share[row, column] > 0.5
            number = f"{counts[row, column]}"
            axes.text(column, row, number, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    bar = figure.colorbar(image, ax=axes, shrink=0.6, format=PercentFormatter(1, decimals=0, symbol=" %"))
    bar.set_label("of the true class")
    return figure


@PLAIN
def reliability_diagram(count: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray, title: str) -> Figure:
    """Draw accuracy over confidence, a bar a bin of equal width, above how many predictions each bin has.

    Args:
        count: [M], predictions.
        confidence: [M], their mean confidence, 0..1; nan where there are none.
        accuracy: [M], the share of them that is right; nan where there are none.
        title: above it.
    """
    bins = len(count)
    left, width = np.arange(bins) / bins, 1 / bins
    figure = Figure(figsize=(5.2, 5.6), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.bar(left, np.nan_to_num(accuracy), width, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    above.plot(confidence, accuracy, "o", color=WRONG, markersize=4, label="at their mean confidence")
    above.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="perfectly calibrated")
    above.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1), title=title)
    above.legend(loc="upper left", fontsize=8)
    below.bar(left, count / count.sum(), width, align="edge", color=GREY, edgecolor="white")
    below.set(xlabel=f"confidence, {bins} bins of equal width", ylabel="share of predictions")
    for axes in (above, below):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    below.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    return figure
