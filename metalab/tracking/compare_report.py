"""Report a comparison: compare.json, .csv, .tex and .md, compare_episodes.csv, report.html, and the screen."""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from metalab.core.disk import disk_errors
from metalab.core.optional_output import optional_output
from metalab.tracking.comparison import tables
from metalab.tracking.comparison.records import Comparison, DataResult, RunResult


def write(out: Path, comparison: Comparison, console: Console | None = None) -> None:
    """Write compare.json to out, then the tables and the page, and show the table.

    What comes after compare.json ends nothing where it cannot be written: it is said.
    """
    out.mkdir(parents=True, exist_ok=True)
    path, new = out / "compare.json", out / ".compare.json.new"
    with disk_errors(path):
        new.write_text(json.dumps(_finite(record(comparison)), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(new, path)
    for name, make in {
        "compare.csv": lambda: tables.write_csv(out / "compare.csv", comparison),
        "compare_episodes.csv": lambda: _write_episodes(out / "compare_episodes.csv", comparison),
        "compare.tex": lambda: _write(out / "compare.tex", tables.latex(comparison)),
        "compare.md": lambda: _write(out / "compare.md", tables.markdown(comparison)),
        "report.html": lambda: _write_page(out / "report.html", comparison),
        "the table": lambda: _show(out, comparison, console or Console(highlight=False)),
    }.items():
        with optional_output(name):
            make()


def record(comparison: Comparison) -> dict[str, Any]:
    """Return what compare.json holds."""
    return {
        "alpha": comparison.alpha,
        "methods": [asdict(method) for method in comparison.methods],
        "data": [_data(data) for data in comparison.data],
        "ranks": None if comparison.ranks is None else comparison.ranks._asdict(),
        "settings": dict(comparison.settings),
        "notes": list(comparison.notes),
    }


def _data(data: DataResult) -> dict[str, Any]:
    rows = []
    for row in data.rows:
        tested = {
            key: None if (found := getattr(row, key)) is None else found._asdict() for key in ("episodes", "seeds")
        }
        plain = {
            key: value for key, value in vars(row).items() if key not in ("method", "accuracy", "episodes", "seeds")
        }
        rows.append({"method": row.method.label, **row.accuracy._asdict(), **plain, **tested})
    return {
        "name": data.name,
        "task": data.task,
        "level": data.level,
        "rows": rows,
        "runs": [_run(run) for run in data.runs],
    }


def _run(run: RunResult) -> dict[str, Any]:
    """Return a run's record with its place beside the others."""
    placed = {"paired": run.paired, "ranked": run.ranked, "remarks": list(run.remarks)}
    steps = [{"accuracy": mean, "ci95": half} for mean, half in run.adaptation]
    return {"folder": run.folder, **placed, "after_inner_steps": steps, **run.record}


def _write_episodes(path: Path, comparison: Comparison) -> None:
    """Write a line an episode: how hard it is for all methods, its place by that, and how far they are apart."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        heads = ("data", "episode", "mean_accuracy", "difficulty_rank", "disagreement")
        rows.writerow((*heads, *(method.label for method in comparison.methods)))
        for data in comparison.data:
            rows.writerows(_episodes(data, comparison))


def _episodes(data: DataResult, comparison: Comparison) -> Sequence[Sequence[Any]]:
    found = data.difficulty
    if found is None:
        return []
    place = found.mean.argsort(kind="stable").argsort(kind="stable") + 1  # 1 is the hardest
    own = dict(zip(found.methods, found.accuracy.tolist(), strict=True))
    columns = [own.get(method.label, [""] * len(place)) for method in comparison.methods]
    facts = (found.mean.tolist(), place.tolist(), found.disagreement.tolist())
    return [(data.name, i, *each) for i, each in enumerate(zip(*facts, *columns, strict=True))]


def _write_page(path: Path, comparison: Comparison) -> None:
    from metalab.tracking.comparison.page import page  # it loads matplotlib

    _write(path, page(comparison))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _show(out: Path, comparison: Comparison, console: Console) -> None:
    console.print(tables.screen(comparison))
    console.print(f"{out / 'report.html'}", markup=False, soft_wrap=True)


def _finite(value: Any) -> Any:
    """Put None where JSON has no word for a number."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
