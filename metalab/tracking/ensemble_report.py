"""Report an ensemble: what eval_report writes of one run, a column a member in episodes.csv, and a table of members."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metalab.core.optional_output import optional_output
from metalab.tracking import eval_report


def write(
    out: Path,
    record: Mapping[str, Any],
    members: Sequence[np.ndarray],
    accuracy: np.ndarray,
    console: Console | None = None,
) -> None:
    """Write eval.json to out, then episodes.csv and TensorBoard scalars, and show the tables.

    Args:
        out: the folder.
        record: of the ensemble, with its `members`.
        members: of each float64 [E], its accuracy on each episode, or image.
        accuracy: float64 [E], the ensemble's.
        console: where the tables are shown; None: standard output.
    """
    shown = console or Console(highlight=False)
    eval_report.write(out, [record], [accuracy], shown)
    with optional_output("episodes.csv"):
        _write_episodes(out / "episodes.csv", members, accuracy)
    with optional_output("the table of the members"):
        shown.print(table(record, accuracy))


def table(record: Mapping[str, Any], accuracy: np.ndarray) -> Table:
    """Lay out a row a member, with what the ensemble adds to it, and the ensemble in the last; in per cent."""
    weighed = record["weights"] is not None
    grid = Table(box=box.SIMPLE, pad_edge=False, show_footer=True)
    grid.add_column("member", "", justify="right", no_wrap=True)
    grid.add_column("checkpoint", f"ensemble={record['ensemble']}", overflow="fold")
    if weighed:
        grid.add_column("weight", "", justify="right", no_wrap=True)
    mean, half = eval_report.mean_ci95(accuracy)
    grid.add_column("accuracy", _percent(mean, half), justify="right", no_wrap=True, footer_style="bold")
    grid.add_column("ensemble - member", "", justify="right", no_wrap=True)
    for i, each in enumerate(record["members"]):
        weight = [f"{each['weight']:.3g}"] if weighed else []
        own, added = ("accuracy", "ci95"), ("difference", "difference_ci95")
        mark = ", the best" if i == record["best_member"]["member"] else ""
        label = Text(f"{each['checkpoint']}\n{each['algo']}, bn {each['bn'] or 'none'}{mark}")
        grid.add_row(str(i), label, *weight, *(_percent(each[a], each[b]) for a, b in (own, added)))
    return grid


def _percent(mean: float, half: float) -> str:
    return f"{100 * mean:.2f} ± {100 * half:.2f} %" if math.isfinite(half) else f"{100 * mean:.2f} %"


def _write_episodes(path: Path, members: Sequence[np.ndarray], accuracy: np.ndarray) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("episode", *(f"member{i}" for i in range(len(members))), "ensemble"))
        columns = zip(*(each.tolist() for each in (*members, accuracy)), strict=True)
        rows.writerows((episode, *values) for episode, values in enumerate(columns))
