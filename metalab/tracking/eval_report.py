"""Report an evaluation: eval.json, episodes.csv, TensorBoard, and a table on the screen."""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from metalab.core.disk import disk_errors
from metalab.core.optional_output import optional_output
from metalab.core.statistics import mean_ci95, sample_sd, t95
from metalab.tracking import domain_text
from metalab.tracking import robustness_report as robustness
from metalab.tracking.corruptions import report as corruptions

FACTS = ("way", "shot", "query", "split", "data", "algo", "bn", "transductive", "seed", "checkpoint")  # of every run
PLAIN = ("task", "data", "algorithm")  # what is clear without its label
OF_ENSEMBLE = ("ensemble", "members", "weights", "best_member")  # what ensemble_report shows
OF_CLASSES = ("hardest_classes", "classes", "averages", "calibration")  # what class_report has in full
DOMAINS = "domains"  # what domain_text says


def write(
    out: Path,
    runs: Sequence[Mapping[str, Any]],
    accuracies: Sequence[Sequence[float] | np.ndarray],
    console: Console | None = None,
) -> dict[str, Any]:
    """Write eval.json to out, then episodes.csv and TensorBoard scalars, show the table; return what eval.json holds.

    What comes after eval.json ends nothing where it cannot be written: it is said.

    runs[i] says what was evaluated: the keys of FACTS (bn: None for a net without batch norm) and what else belongs to
    the record (run, loss, note, overlap: the names of the classes that were trained on).
    accuracies[i] holds its accuracy on each episode, a fraction; accuracy, ci95 and episodes are computed from it.
    Where there is none (episodes: None, images: their number) it holds 0 or 1 for each image.
    Several runs are written as {"runs": [...], "mean": ..., "sd": ...}, the sample's sd over the runs' accuracies;
    both are None where the runs are not of one algorithm.
    A number that is not finite is null. ValueError: a fact is missing.
    """
    records = [_record(run, values) for run, values in zip(runs, accuracies, strict=True)]
    whole = records[0]
    if len(records) > 1:
        means = [record["accuracy"] for record in records] if _alike(records) else [math.nan]
        whole = {"runs": records, "mean": float(np.mean(means)), "sd": sample_sd(means)}
    out.mkdir(parents=True, exist_ok=True)
    path, new = out / "eval.json", out / ".eval.json.new"
    with disk_errors(path):
        new.write_text(json.dumps(_finite(whole), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(new, path)
    counted = [{**record, "episodes": len(values)} for record, values in zip(records, accuracies, strict=True)]
    for name, make in {
        "episodes.csv": lambda: _write_episodes(out / "episodes.csv", accuracies),
        "TensorBoard's event file": lambda: _write_scalars(out, records),
        "robustness.csv and its picture": lambda: robustness.write(out, counted),
        "corruptions.csv and its picture": lambda: corruptions.write(out, counted),
        "the table": lambda: (console or Console(highlight=False)).print(table(records)),
    }.items():
        with optional_output(name):
            make()
    return whole


def table(records: Sequence[Mapping[str, Any]]) -> Group:
    """Lay out what all records share as a list of facts, and below, for several, a row each; in per cent."""
    rows = [_row(record) for record in records]
    labels = list(dict.fromkeys(label for row in rows for label in row))
    shared = [label for label in labels if len({row.get(label) for row in rows}) == 1]
    if len(rows) > 1:
        shared = [label for label in shared if label not in ("accuracy", "checkpoint")]
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for label in shared:
        facts.add_row(label, Text(rows[0][label]), style="bold" if label in ("accuracy", "overlap") else "")
    if len(rows) == 1:
        return Group("", facts, "")
    own = [label for label in labels if label not in (*shared, "accuracy", "checkpoint")]
    return Group("", facts, _several(records, rows, own))


def _several(records: Sequence[Mapping[str, Any]], rows: list[dict[str, str]], own: list[str]) -> Table:
    """Lay out a row a run, with what is its own, and the mean over the runs below."""
    means = [record["accuracy"] for record in records]
    grid = Table(box=box.SIMPLE, show_footer=True, pad_edge=False)
    grid.add_column("run", justify="right", no_wrap=True)
    alike = _alike(records)
    grid.add_column("checkpoint", f"mean ± sd of {len(rows)} runs" if alike else "", overflow="fold")
    accuracy = _percent(float(np.mean(means)), sample_sd(means)) if alike else ""
    grid.add_column("accuracy", accuracy, justify="right", no_wrap=True, footer_style="bold")
    for index, row in enumerate(rows):
        facts = [row[label] if label in PLAIN else f"{label} {row[label]}" for label in own if label in row]
        said = Text("\n".join([row["checkpoint"], " · ".join(facts)]).strip())  # not markup: a path may hold [brackets]
        grid.add_row(str(index), said, row["accuracy"])
    return grid


def _alike(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a mean over the runs means anything."""
    return len({record["algo"] for record in records}) == 1


def queries(record: Mapping[str, Any]) -> str:
    """Say how many queries an episode has of each class, or in all where that is drawn, and which labels are wrong."""
    if "accuracy_of_each" in record:  # of all classes at once
        which = "all" if record["query"] == "all" else "all other"
        return f"{which} {record['queries']} images as queries"
    noise = f", {record['label_noise']:.0%} wrong labels in the support" if record.get("label_noise") else ""
    if record.get("query_balance") is None:
        return f"{record['query']} queries a class{noise}"
    return f"{record['way'] * record['query']} queries in all, classes by Dirichlet({record['dirichlet']:g}){noise}"


def _row(record: Mapping[str, Any]) -> dict[str, str]:
    """Say one record in words, by label, in the order in which people read it."""
    row = {
        "accuracy": _percent(record["accuracy"], record["ci95"]),
        "interval": _interval(record),
        "task": f"{record['way']}-way {record['shot']}-shot, {queries(record)}",
        "data": f"{record['data']}, {record['split']} split",
        "algorithm": f"{record['algo']}",
        "batch norm": f"{record['bn'] or 'none'}, {'transductive' if record['transductive'] else 'not transductive'}",
        "seed": f"{record['seed']}",
        "checkpoint": f"{record['checkpoint']}",
    }
    if unknown := record.get("unknown"):
        area = _percent(unknown["auroc"], unknown["ci95"])
        row["none of these"] = f"AUROC {area}, against queries of {unknown['classes']} classes outside of each episode"
    told = {*FACTS, *OF_CLASSES, *OF_ENSEMBLE, DOMAINS, corruptions.KEY, "query_balance", "dirichlet", "label_noise"}
    told |= {"accuracy", "ci95", "episodes", "attacks", "unknown", "queries", "folds", "over_images"}
    told.add("run")  # its folder is that of its checkpoint
    if "folds" in record:
        row["task"] = f"{record['way']}-way, {record['queries']} images in {record['folds']} folds, each asked once"
        row["over images"] = _percent(record["over_images"]["accuracy"], record["over_images"]["ci95"])
    if record["episodes"] is None:
        row["task"] = f"plain classification, {record['way']} classes"
    row |= _classes(record)
    row |= domain_text.domain_rows(record[DOMAINS]) if DOMAINS in record else {}
    row |= dict(_attacked(attack) for attack in record.get("attacks", ()))
    row |= corruptions.rows(record)
    return row | {
        key.replace("_", " "): _words(value) for key, value in record.items() if key not in told and value is not None
    }


def _classes(record: Mapping[str, Any]) -> dict[str, str]:
    """Say what a record holds of its classes: the hardest ones, or F1 and calibration of a classifier."""
    said = {}
    if hardest := record.get("hardest_classes"):
        each = [f"{one['class']} {_percent(one['accuracy'], one['ci95'])}" for one in hardest]
        said["hardest classes"] = ", ".join(each)
    if averages := record.get("averages"):
        said["F1"] = ", ".join(f"{100 * scores['f1']:.2f} % {name}" for name, scores in averages.items())
    if found := record.get("calibration"):
        scaled = (
            f", {100 * found['scaled']['ece']:.2f} % at temperature {found['temperature']:.3g}"
            if "scaled" in found
            else ""
        )
        said["calibration"] = f"expected error {100 * found['ece']:.2f} %, {found['bins']} bins{scaled}"
    return said


def _interval(record: Mapping[str, Any]) -> str:
    n = counted(record)
    return f"95 %, {t95(n):.2f} sd / sqrt({over(record)})" if n > 1 else "none"


def counted(record: Mapping[str, Any]) -> int:
    """Return how many episodes, or without them images, the mean and its interval are over."""
    return record["images"] if record["episodes"] is None else record["episodes"]


def over(record: Mapping[str, Any]) -> str:
    """Say what the mean and its interval are over."""
    what = "images" if record["episodes"] is None else "draws" if "accuracy_of_each" in record else "episodes"
    what = "folds" if "folds" in record else what
    return f"{counted(record)} {what}"


def _attacked(attack: Mapping[str, Any]) -> tuple[str, str]:
    """Say one attack of a record: its name and size, and the accuracy that is left."""
    said = _percent(attack["accuracy"], attack["ci95"])
    steps = f", {attack['steps']} steps" if attack["steps"] is not None else ""
    zero = f", {100 * attack['zero_gradients']:.3g} % zero gradients" if attack["zero_gradients"] is not None else ""
    on = attack["on"] + (f" by {attack['support']}" if attack.get("support") else "")
    return f"{attack['name']} {attack['eps']:g}/255", f"{said} (on {on}, {attack['norm']}{steps}{zero})"


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        more = f" and {len(value) - 5} more" if len(value) > 5 else ""
        return f"{len(value)} classes: {', '.join(map(str, value[:5]))}{more}"
    if isinstance(value, Mapping):  # shares, or accuracies, by name
        return ", ".join(f"{name} {_share(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _share(item: Any) -> str:
    if not isinstance(item, Mapping):
        return f"{100 * item:.1f} %"
    episodes = f" of {item['episodes']} episodes" if "episodes" in item else ""
    return _percent(item["accuracy"], item["ci95"]) + episodes


def _percent(mean: float, half: float) -> str:
    return f"{100 * mean:.2f} ± {100 * half:.2f} %" if math.isfinite(half) else f"{100 * mean:.2f} %"


def _record(run: Mapping[str, Any], accuracies: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Put the numbers before the facts."""
    missing = [key for key in FACTS if key not in run]
    if missing:
        raise ValueError(f"an evaluation's record lacks {', '.join(missing)}")
    accuracy, ci95 = mean_ci95(accuracies)
    return {"accuracy": accuracy, "ci95": ci95, "episodes": len(accuracies), **run}


def _finite(value: Any) -> Any:
    """Put None where JSON has no word for a number."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_episodes(path: Path, accuracies: Sequence[Sequence[float] | np.ndarray]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("run", "episode", "accuracy"))
        for run, values in enumerate(accuracies):
            rows.writerows((run, episode, float(value)) for episode, value in enumerate(values))


def _write_scalars(out: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write <split>/accuracy and <split>/ci95, the run's number as the step."""
    from torch.utils.tensorboard import SummaryWriter  # 1.6 s, which no --help should wait for

    with SummaryWriter(str(out)) as writer:
        for index, record in enumerate(records):
            writer.add_scalar(f"{record['split']}/accuracy", record["accuracy"], index)
            writer.add_scalar(f"{record['split']}/ci95", record["ci95"], index)
            for name, value in domain_text.domain_scalars(record[DOMAINS]).items() if DOMAINS in record else ():
                writer.add_scalar(f"{record['split']}/{name}", value, index)
            elsewhere = (*OF_CLASSES, DOMAINS, corruptions.KEY)
            groups = [(n, value) for n, value in record.items() if isinstance(value, Mapping) and n not in elsewhere]
            for name, share in ((f"{group}/{n}", share) for group, shares in groups for n, share in shares.items()):
                if isinstance(share, Mapping):
                    writer.add_scalar(f"{record['split']}/{name}", share["accuracy"], index)
