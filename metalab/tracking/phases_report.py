"""What a training in phases comes to: phases.json, phases.csv, TensorBoard's scalars, and a table on the screen."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from metalab.core.disk import disk_errors
from metalab.tracking.tensorboard_events import Events

JSON, CSV = "phases.json", "phases.csv"


def read(out: Path) -> list[dict[str, Any]]:
    """Return what was measured after each phase that has ended, as it was given to write; nothing where none has."""
    path = out / JSON
    return json.loads(path.read_text(encoding="utf-8"))["after"] if path.is_file() else []


def write(out: Path, phases: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> None:
    """Write phases.json and phases.csv to out.

    Args:
        out: the folder that holds phase0, phase1, ...
        phases: of each phase, begun or not: algo, data, steps and run.
        after: of each phase that has ended: accuracy, a list with a fraction or None for each phase's validation data,
            count, how many images or episodes these are, validation, and what they come to.
    """
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(["after_phase", "on_phase", "accuracy", "count"])
    for i, row in enumerate(after):
        for j, (accuracy, count) in enumerate(zip(row["accuracy"], row["count"], strict=True)):
            writer.writerow([i, j, "" if accuracy is None else accuracy, "" if count is None else count])
    whole = {"split": "val", "phases": list(phases), "after": list(after)}
    for name, text in ((JSON, json.dumps(whole, indent=2) + "\n"), (CSV, lines.getvalue())):
        new = out / f".{name}.new"
        with disk_errors(out / name):
            new.write_text(text, encoding="utf-8")
            os.replace(new, out / name)


def draw(out: Path, phase: int, row: Mapping[str, Any]) -> None:
    """Write what was measured after a phase as TensorBoard's scalars, its number as their step."""
    events = Events(out)
    values = {f"phases/accuracy_on_phase{j}": value for j, value in enumerate(row["accuracy"])}
    values |= {
        f"phases/{name}": row.get(name) for name in ("average", "backward_transfer", "forgetting", "all_classes")
    }
    for tag, value in values.items():
        if value is not None:
            events.write(lambda writer, tag=tag, value=value: writer.add_scalar(tag, value, phase))
    events.close()


def show(out: Path, after: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Show the matrix, a row a phase that has ended, and what it comes to; in per cent."""
    (console or Console(highlight=False)).print(table(after), out / JSON, sep="\n")


def table(after: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out the accuracy on each phase's validation data after each phase, and the summary as the caption."""
    grid = Table(box=box.SIMPLE, pad_edge=False, caption_justify="left", title_justify="left")
    grid.title = "validation accuracy, %"
    grid.add_column("after", no_wrap=True)
    for j in range(len(after[-1]["accuracy"])):
        grid.add_column(f"on phase{j}", justify="right", no_wrap=True)
    joint = any(row.get("all_classes") is not None for row in after)
    for name in ("mean so far", *(["all classes so far"] if joint else [])):
        grid.add_column(name, justify="right", no_wrap=True)
    for i, row in enumerate(after):
        cells = [*row["accuracy"], row["average"], *([row.get("all_classes")] if joint else [])]
        grid.add_row(f"phase{i}", *map(_percent, cells))
    last = after[-1]
    if len(after) > 1:
        grid.caption = (
            f"backward transfer {_percent(last['backward_transfer'])}, forgetting {_percent(last['forgetting'])} "
            "(percentage points, over the phases before the last)"
        )
    return grid


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
