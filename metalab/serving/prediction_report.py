"""What metalab predict leaves behind: predictions.csv, a contact sheet, predict.json, and a table on the screen."""

import csv
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from metalab.core.disk import disk_errors
from metalab.core.optional_output import optional_output
from metalab.serving.practice import Practice

if TYPE_CHECKING:
    from metalab.serving.predict import Prediction

ROWS = 20  # images that the screen shows


def write(out: Path, practice: Practice, predictions: Sequence["Prediction"], unread: Mapping[str, str]) -> None:
    """Write predictions.csv and predict.json to out, then the contact sheet and the table on the screen.

    Raises:
        UserError: where the disk does not take the first two.
    """
    path, new = out / "predictions.csv", out / ".predictions.csv.new"
    with disk_errors(path):
        with new.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["file", "label", "probability", *practice.classifier.names])
            for p in predictions:
                rows.writerow([p.file, p.label, _share(p.probability), *map(_share, p.probabilities)])
        os.replace(new, path)
    with disk_errors(out / "predict.json"):
        text = json.dumps(record(practice, predictions, unread), indent=2)
        (out / "predict.json").write_text(text + "\n", encoding="utf-8")
    with optional_output("predictions.png"):
        from metalab.serving.contact_sheet import contact_sheet

        shown = [p for p in predictions if p.pixels is not None]
        contact_sheet(shown, len(predictions)).save(out / "predictions.png")
    Console(highlight=False).print(table(practice, predictions, out))


def record(practice: Practice, predictions: Sequence["Prediction"], unread: Mapping[str, str]) -> dict[str, Any]:
    """Return what is known of the predictions as a whole, for predict.json."""
    run, support, expected = practice.run, practice.support, practice.expected
    limit = practice.threshold
    return {
        "run": run.words,
        "algo": run.algo_name,
        "bn": run.bn,
        "classes": dict(zip(support.names, support.count, strict=True)) if support else practice.classifier.names,
        "expected": None
        if expected is None
        else {
            "accuracy": expected.accuracy,
            "interval": [expected.low, expected.high],
            "images": expected.images,
            "shot": list(expected.shot),
        },
        "temperature": practice.temperature,
        "reject": None
        if limit is None
        else {"score": limit.score, "set_on": limit.source, "others_marked": practice.marked},
        "images": len(predictions),
        "predicted": _counts(predictions),
        "unreadable": dict(unread),
        "note": practice.notes,
    }


def table(practice: Practice, predictions: Sequence["Prediction"], out: Path) -> Group:
    """Lay out what was found: the facts, the first images with their labels, and where the files are."""
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(practice, predictions).items():
        facts.add_row(name, Text(value), style="bold" if name == "expected" else "")
    grid = Table(box=box.SIMPLE, pad_edge=False)
    grid.add_column("file", overflow="fold")
    grid.add_column("label", overflow="fold")
    grid.add_column("probability", justify="right", no_wrap=True)
    for p in predictions[:ROWS]:
        grid.add_row(Text(p.file), Text(p.label or "(none of these)"), f"{100 * p.probability:.1f} %")
    more = f"and {len(predictions) - ROWS} more, " if len(predictions) > ROWS else ""
    return Group("", facts, grid, Text(f"{more}all in {out / 'predictions.csv'}; the pictures: predictions.png\n"))


def _facts(practice: Practice, predictions: Sequence["Prediction"]) -> dict[str, str]:
    run, support = practice.run, practice.support
    made = {"run": f"{run.words}, algo={run.algo_name}"}
    if support is not None:
        counts = support.count
        shots = f"{counts[0]} images each" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)} images each"
        made["classes"] = f"{len(support.names)}, {shots}"
    if practice.expected is not None:
        made["expected"] = practice.expected.words
    if practice.threshold is not None:
        others = (
            "" if practice.marked is None else f"; of images of other classes {100 * practice.marked:.0f} % are marked"
        )
        made["none of these"] = f"set on {practice.threshold.source}{others}"
    made["predicted"] = ", ".join(f"{n} {label or '(none of these)'}" for label, n in _counts(predictions).items())
    return made | ({"note": "; ".join(practice.notes)} if practice.notes else {})


def _counts(predictions: Sequence["Prediction"]) -> dict[str, int]:
    return dict(Counter(p.label for p in predictions).most_common())


def _share(value: float) -> str:
    return f"{value:.6f}"
