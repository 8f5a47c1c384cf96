"""The table of a comparison: on the screen, as CSV, LaTeX and Markdown."""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from metalab.core.statistics import Difference
from metalab.tracking.comparison import words
from metalab.tracking.comparison.records import Comparison, DataResult, Row

HEADINGS = ("method", "accuracy, %", "over", "difference to the best, points", "p (t)", "p (Wilcoxon)")
OVER_SEEDS = ("difference over seeds", "p (seeds)")
MARKS = "* not significantly different from the best; † not ranked, ‡ ranked, but see the remarks"


def headings(data: DataResult) -> list[str]:
    """Return the headings of a data set's table; those of seeds only where some method has several."""
    return [*HEADINGS, *(OVER_SEEDS if with_seeds(data) else ()), "beside the best"]


def cells(row: Row, data: DataResult) -> list[str]:
    """Return a method's row; p-values are Holm's where it is ranked, and as they are where it is not."""
    episodes = row.episodes_holm if row.ranked else row.episodes and row.episodes.p
    found = [row.method.label, f"{words.accuracy(row.accuracy)}{words.mark(row)}", row.over]
    found += [words.difference(row.episodes), words.p_value(episodes)]
    found += [words.p_value(row.wilcoxon_holm if row.ranked else row.wilcoxon)]
    if with_seeds(data):
        seeds = row.seeds_holm if row.ranked else row.seeds and row.seeds.p
        found += [words.difference(row.seeds), words.p_value(seeds)]
    return [*found, words.verdict(row)]


def with_seeds(data: DataResult) -> bool:
    """Whether there is anything to say over seeds."""
    return any(row.seeds is not None for row in data.rows)


def _screen_table(data: DataResult) -> Table:
    """Lay out what a terminal has room for: the differences, and p of what significance is about."""
    seeds = data.level == "seeds"
    grid = Table(box=box.SIMPLE, pad_edge=False, title=Text(f"{data.name}: {data.task}"), title_justify="left")
    grid.add_column("method", overflow="fold")
    for heading in ("accuracy, %", "over", f"to the best, {data.level}", "p, Holm"):
        grid.add_column(heading, justify="left" if heading == "over" else "right", no_wrap=True)
    for row in data.rows:
        tested = row.seeds if seeds else row.episodes
        p = (row.seeds_holm if seeds else row.episodes_holm) if row.ranked else None
        accuracy = f"{words.accuracy(row.accuracy)}{words.mark(row)}"
        shown = [row.method.label, accuracy, row.over, words.difference(tested), words.p_value(p)]
        grid.add_row(*map(Text, shown), style="bold" if row.best else "")  # not markup: a path may hold [brackets]
    return grid


def screen(comparison: Comparison) -> Group:
    """Lay out a table a data set, ranks over them, and what a reader must know."""
    parts: list[Any] = []
    parts += [_screen_table(data) for data in comparison.data]
    if comparison.ranks is not None:
        parts.append(Text(ranks(comparison)))
    notes = [Text(f"- {note}") for note in [MARKS, *comparison.notes]]
    return Group("", *parts, *notes, "")


def ranks(comparison: Comparison) -> str:
    """Say the average ranks over data sets."""
    found = comparison.ranks
    if found is None:
        return ""
    each = ", ".join(f"{m.label} {rank:.2f}" for m, rank in zip(comparison.methods, found.average, strict=True))
    return (
        f"average ranks over {len(comparison.data)} data sets: {each}; Friedman's p {words.p_value(found.p)}; "
        f"Nemenyi's critical difference {found.critical:.2f} at {comparison.alpha:g}"
    )


def write_csv(path: Path, comparison: Comparison) -> None:
    """Write a line a method and data set, fractions and p-values in full; empty where there is none."""
    names = ("mean", "low", "high", "p")
    columns = ["data", "method", "runs", "seeds", "accuracy", "low", "high", "interval", "over", "ranked", "best"]
    columns += [f"episodes_{name}" for name in names] + ["wilcoxon_p", "episodes_holm_p", "wilcoxon_holm_p"]
    columns += [f"seeds_{name}" for name in names] + ["seeds_paired", "seeds_holm_p", "significant", "remarks"]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        for data in comparison.data:
            table.writerows([data.name, *_csv_row(row, data)] for row in data.rows)


def _csv_row(row: Row, data: DataResult) -> Iterator[Any]:
    method = row.method
    yield from (method.label, " ".join(data.runs[i].folder for i in method.runs), " ".join(map(str, method.seeds)))
    yield from (*(_number(each) for each in row.accuracy[:3]), row.accuracy.kind, row.over, row.ranked, row.best)
    yield from _four(row.episodes)
    yield from (_number(each) for each in (row.wilcoxon, row.episodes_holm, row.wilcoxon_holm))
    yield from _four(row.seeds)
    yield from ("" if row.seeds is None else row.seeds_paired, _number(row.seeds_holm))
    yield from ("" if row.significant is None else row.significant, "; ".join(row.remarks))


def _four(found: Difference | None) -> list[Any]:
    return [""] * 4 if found is None else [_number(each) for each in found]


def _number(value: float | None) -> Any:
    return "" if value is None or math.isnan(value) else value


def latex(comparison: Comparison) -> str:
    """Return a booktabs table: a row a method, a column a data set, the best bold, marks as in MARKS."""
    names = [words.latex(data.name) for data in comparison.data]
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{tabular}{l" + "r" * len(names) + "}",
        "\\toprule",
        " & ".join(["method", *names]) + " \\\\",
        "\\midrule",
    ]
    for method in _in_order(comparison):
        rows = [next(row for row in data.rows if row.method.label == method) for data in comparison.data]
        lines.append(" & ".join([words.latex(method), *map(_latex_cell, rows)]) + " \\\\")
    tasks = "; ".join(f"{data.name}: {data.task}" for data in comparison.data)
    marks = (
        "$^{*}$ not significantly different from the best; $^{\\dagger}$ not ranked; $^{\\ddagger}$ other conditions"
    )
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", f"% {words.latex(tasks)}", f"% {marks}", ""])


def _latex_cell(row: Row) -> str:
    number = words.accuracy(row.accuracy, " $\\pm$ ")
    mark = words.mark(row).replace("†", "\\dagger").replace("‡", "\\ddagger")
    return (f"\\textbf{{{number}}}" if row.best else number) + (f"$^{{{mark}}}$" if mark else "")


def _in_order(comparison: Comparison) -> list[str]:
    """Return the methods' labels as the first data set ranks them."""
    return [row.method.label for row in comparison.data[0].rows]


def markdown(comparison: Comparison) -> str:
    """Return the tables of all data sets with their remarks."""
    lines: list[str] = []
    for data in comparison.data:
        lines += [f"{words.markdown(data.name)}: {words.markdown(data.task)}", ""]
        lines += _markdown_table(headings(data), [cells(row, data) for row in data.rows], [r.best for r in data.rows])
        lines.append("")
    if comparison.ranks is not None:
        lines += [words.markdown(ranks(comparison)), ""]
    return "\n".join([*lines, *(f"- {words.markdown(note)}" for note in [MARKS, *comparison.notes]), ""])


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], bold: Sequence[bool]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row, strong in zip(rows, bold, strict=True):
        shown = [words.markdown(cell) for cell in row]
        shown[1] = f"**{shown[1]}**" if strong else shown[1]
        yield f"| {' | '.join(shown)} |"
