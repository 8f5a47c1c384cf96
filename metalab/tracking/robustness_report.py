"""The attacked part of a report: robustness.csv, the curve over eps as robustness.png, and both in TensorBoard."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("name", "norm", "on", "support", "eps", "steps", "accuracy", "ci95", "zero_gradients")


def write(out: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write what the records hold of attacks to out: nothing where none was made."""
    rows = [(run, record["bn"], a) for run, record in enumerate(records) for a in record.get("attacks", ())]
    if not rows:
        return
    with (out / "robustness.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("run", "bn", *COLUMNS))
        table.writerows((run, bn, *(attack[column] for column in COLUMNS)) for run, bn, attack in rows)
    _draw(out, records)


def curves(records: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float, float]]]:
    """Return eps [255ths], accuracy and ci95 of each attack of each run, by a label, clean accuracy at 0 first."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for run, record in enumerate(records):
        for attack in record.get("attacks", ()):
            label = attack["name"] if len(records) == 1 else f"run {run}, {attack['name']}"
            points = found.setdefault(label, [(0.0, record["accuracy"], record["ci95"])])
            if attack["eps"] > 0:
                points.append((attack["eps"], attack["accuracy"], attack["ci95"]))
    return {label: sorted(points) for label, points in found.items()}


def _draw(out: Path, records: Sequence[Mapping[str, Any]]) -> None:
    from torch.utils.tensorboard import SummaryWriter  # 1.6 s, which no --help should wait for

    from metalab.tracking import figures

    first = records[0]
    of = f"{first['images']} images" if "images" in first else f"{first['episodes']} episodes"
    modes = {record["bn"] for record in records}
    mode = f", bn={first['bn']}" if len(modes) == 1 and first["bn"] else ""
    title = f"accuracy under attack on the {first['attacks'][0]['on']}, {of}{mode}"
    figure = figures.robustness_curve(curves(records), first["attacks"][0]["norm"], title, first["way"])
    figures.save(figure, out / "robustness.png")
    with SummaryWriter(str(out)) as writer:
        for run, record in enumerate(records):
            for attack in record.get("attacks", ()):
                place = f"robust/{attack['name']}_{attack['eps']:g}_255ths"
                writer.add_scalar(f"{place}/accuracy", attack["accuracy"], run)
                writer.add_scalar(f"{place}/ci95", attack["ci95"], run)
        writer.add_image("robust/curve", figures.pixels(figure), dataformats="HWC")
