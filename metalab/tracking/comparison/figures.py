"""Draw a comparison: intervals, training, adaptation, attacks, classes, difficulty, and ranks over data sets."""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metalab.core.statistics import Ranks
from metalab.tracking.comparison.records import Difficulty, Row
from metalab.tracking.figures import GREY, PLAIN

COLOURS = ("#1f5fa8", "#d1495b", "#1b8a3a", "#b8860b", "#6a3d9a", "#0f8b8d", "#8c510a", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
CLASSES = 15  # that a picture has room for
GROUPS = 10  # of episodes by difficulty
Curve = tuple[str, int, Sequence[float], Sequence[float]]  # a run's label, its method's number, x, y


def styles(count: int) -> list[tuple[str, str]]:
    """Return a colour and a marker for each of so many methods."""
    return list(islice(cycle(zip(COLOURS, MARKERS, strict=True)), count))


@PLAIN
def intervals(rows: Sequence[Row], order: Mapping[str, int], title: str) -> Figure:
    """Draw each method's accuracy with its 95 % interval, hollow where it is not ranked."""
    figure, axes = _axes((7.0, 0.9 + 0.42 * len(rows)))
    for place, row in enumerate(rows):
        colour, marker = styles(len(order))[order[row.method.label]]
        mean, low, high = (100 * each for each in row.accuracy[:3])
        error = [[mean - low], [high - mean]] if np.isfinite(low) else None
        face = colour if row.ranked else "white"
        axes.errorbar(mean, place, xerr=error, fmt=marker, color=colour, markerfacecolor=face, capsize=4, markersize=6)
    axes.set_yticks(range(len(rows)), [_short(row.method.label) for row in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="accuracy, 95 % interval", title=title)
    axes.xaxis.set_major_formatter("{x:g} %")
    return figure


@PLAIN
def curves(lines: Sequence[Curve], x: str, y: str, title: str, share: bool = True) -> Figure:
    """Draw a line a run, in its method's colour; the legend names the first run of each method by its label.

    share: whether y is a fraction in 0..1, shown in per cent.
    """
    figure, axes = _axes((7.0, 4.0))
    named: set[str] = set()
    for label, method, xs, ys in lines:
        colour, marker = COLOURS[method % len(COLOURS)], MARKERS[method % len(MARKERS)]
        shown = label if label not in named else None
        named.add(label)
        few = marker if len(xs) <= 40 else None
        values = np.asarray(ys, float) * (100 if share else 1)
        axes.plot(
            xs, values, color=colour, marker=few, ms=4, lw=1.4, alpha=0.85, label=_short(shown) if shown else None
        )
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if share:
        axes.yaxis.set_major_formatter("{x:g} %")
    axes.legend(fontsize=8)
    return figure


@PLAIN
def class_bars(columns: dict[str, dict[str, float]], order: Mapping[str, int], title: str) -> Figure:
    """Draw accuracy by class, a bar a method: the classes that are hardest on average.

    columns: by method, class -> accuracy, a fraction.
    """
    names = set.intersection(*(set(column) for column in columns.values()))
    mean = {name: float(np.mean([column[name] for column in columns.values()])) for name in names}
    hardest = sorted(names, key=lambda name: (mean[name], name))[:CLASSES]
    high = 0.8 / len(columns)
    figure, axes = _axes((7.0, 1.2 + max(0.3, 0.16 * len(columns)) * len(hardest)))
    for place, (label, column) in enumerate(columns.items()):
        at = np.arange(len(hardest)) + (place - (len(columns) - 1) / 2) * high
        colour, _ = styles(len(order))[order[label]]
        axes.barh(at, [100 * column[name] for name in hardest], high * 0.92, color=colour, label=_short(label))
    axes.set_yticks(range(len(hardest)), [_short(name, 30) for name in hardest], fontsize=8)
    axes.set(ylim=(len(hardest) - 0.5, -0.5), xlim=(0, 100), xlabel="accuracy", title=title)
    axes.xaxis.set_major_formatter("{x:g} %")
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=min(3, len(columns)))
    return figure


@PLAIN
def difficulty(found: Difficulty, order: Mapping[str, int], title: str) -> Figure:
    """Draw each method's accuracy over the difficulty of the episodes, in groups of equally many."""
    figure, axes = _axes((7.0, 4.0))
    hardest = np.argsort(found.mean, kind="stable")
    groups = np.array_split(hardest, min(GROUPS, len(hardest)))
    for label, accuracy in zip(found.methods, found.accuracy, strict=True):
        colour, marker = styles(len(order))[order[label]]
        means = [100 * accuracy[group].mean() for group in groups]
        axes.plot(range(1, len(groups) + 1), means, color=colour, marker=marker, ms=5, label=_short(label))
    axes.set(xlabel=f"episodes by difficulty, hardest first, {len(groups)} groups", ylabel="accuracy", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.legend(fontsize=8)
    return figure


@PLAIN
def critical_difference(ranks: Ranks, labels: Sequence[str], title: str) -> Figure:
    """Draw average ranks on a line, and bars below it that join methods closer than the critical difference.

    The picture of Demšar 2006, figure 1: 1 is the best rank, and what a bar joins does not differ significantly.
    """
    order = [int(i) for i in np.argsort(ranks.average, kind="stable")]
    joined = cliques([ranks.average[i] for i in order], ranks.critical)
    methods, half = len(labels), (len(labels) + 1) // 2
    below, aside = 0.3 + 0.16 * len(joined), 0.75 * (methods - 1)  # for the bars, and for names
    figure, axes = _axes((8.5, 1.3 + 0.3 * half + 0.14 * len(joined)))
    axes.set(xlim=(1 - aside, methods + aside), ylim=(below + 0.32 * half, -1.0), title=title)
    axes.axis("off")
    axes.hlines(0, 1, methods, color="black", lw=1)
    for tick in range(1, methods + 1):
        axes.vlines(tick, -0.12, 0, color="black", lw=1)
        axes.text(tick, -0.18, f"{tick}", ha="center", va="bottom", fontsize=9)
    axes.hlines(-0.7, 1, min(1 + ranks.critical, methods), color=GREY, lw=2)
    axes.text(1, -0.75, f"critical difference {ranks.critical:.2f}", fontsize=8, va="bottom", color=GREY)
    for place, i in enumerate(order):
        left = place < half
        level = below + 0.32 * (place if left else methods - 1 - place)
        end = 0.95 if left else methods + 0.05
        axes.plot([ranks.average[i], ranks.average[i], end], [0, level, level], color="black", lw=0.8)
        words = f"{_short(labels[i], 30)} ({ranks.average[i]:.2f})"
        axes.text(end, level, words, ha="right" if left else "left", va="center", fontsize=9)
    for line, (first, last) in enumerate(joined):
        left, right = ranks.average[order[first]] - 0.04, ranks.average[order[last]] + 0.04
        axes.hlines(0.16 * (line + 1), left, right, color=COLOURS[1], lw=4)
    return figure


def cliques(averages: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """Return the first and last place of each largest group of sorted average ranks less than critical apart."""
    found: list[tuple[int, int]] = []
    for first in range(len(averages)):
        last = max(i for i in range(first, len(averages)) if averages[i] - averages[first] < critical or i == first)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _short(label: str, letters: int = 44) -> str:
    """Return a label as matplotlib may show it: neither long nor, with a dollar sign, a formula."""
    cut = label if len(label) <= letters else f"{label[: letters // 2]}…{label[-(letters // 2) :]}"
    return cut.replace("$", r"\$")
