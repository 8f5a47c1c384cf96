"""The matrix of a sweep of evaluations: what was trained down the side, what was tested on across the top."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

FACTS = ("run", "trained_on", "algo", "data", "split", "way", "shot", "query", "bn", "transductive", "episodes")
NUMBERS = ("accuracy", "ci95")
OF_DOMAINS = ("source", "target", "source_accuracy", "gap", "gain")  # where a target domain is among what was tested


def write(
    jobs: Sequence[tuple[Path, Sequence[str]]], told: Sequence[Sequence[str]], console: Console | None = None
) -> Path:
    """Write matrix.csv beside the jobs' folders, one line an evaluation, show the table and return the file's path.

    jobs: each evaluation's folder, with its eval.json, and the words of the command line that it was made with.
    told: the words of every evaluation of the sweep, also of those that failed.
    """
    common = set(told[0]).intersection(*told)
    cells = []
    for folder, words in jobs:
        column = " ".join(word for word in words if not word.startswith("run=") and word not in common) or "all"
        held = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
        cells += [(_with_target(column, record), record) for record in held.get("runs", [held])]
    path = jobs[0][0].parent / "matrix.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        more = OF_DOMAINS if any("domains" in record for _, record in cells) else ()
        rows.writerow(("words", *FACTS, *NUMBERS, *more))
        for column, record in cells:
            rows.writerow((column, *(record[key] for key in (*FACTS, *NUMBERS)), *_of_domains(record)[: len(more)]))
    (console or Console(highlight=False)).print(table(cells), Text(str(path)))
    return path


def _with_target(column: str, record: dict[str, Any]) -> str:
    """Return the heading of a record's column, with the target domain where the words of the sweep do not say it."""
    if "domains" not in record or "data.target=" in column:
        return column
    own = f"data.target={record['domains']['target']['domain']}"
    return own if column == "all" else f"{own} {column}"


def _of_domains(record: dict[str, Any]) -> tuple[Any, ...]:
    """Return the values of OF_DOMAINS; nothing in each where no target domain was tested."""
    if "domains" not in record:
        return ("",) * len(OF_DOMAINS)
    source, target, gap = (record["domains"][key] for key in ("source", "target", "gap"))
    gain = record["domains"].get("gain", {}).get("difference", "")
    return "+".join(source["domains"]), target["domain"], source["accuracy"], gap["difference"], gain


def table(cells: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """Lay out the accuracies in per cent, a row a run and a column for each other choice; a dash: none."""
    columns = list(dict.fromkeys(column for column, _ in cells))
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for column, record in cells:
        rows.setdefault(record["run"], {})[column] = record
    grid = Table(title="accuracy, %", title_justify="left")
    for heading in ("trained on", *columns):
        grid.add_column(heading, overflow="fold")
    for run, found in rows.items():
        one = next(iter(found.values()))
        sources = f" {'+'.join(one['domains']['source']['domains'])}" if "domains" in one else ""
        label = Text(f"{one['trained_on']}{sources}, {one['algo']}\n{run}")
        grid.add_row(label, *(_shown(found.get(column)) for column in columns))
    return grid


def _shown(record: dict[str, Any] | None) -> str:
    if record is None:
        return "-"
    half = record["ci95"] if record["ci95"] is not None else math.nan
    return f"{100 * record['accuracy']:.2f} ± {100 * half:.2f}"
