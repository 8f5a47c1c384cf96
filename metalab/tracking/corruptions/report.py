"""The part of a report on common corruptions: rows of the table, corruptions.csv and .png, and TensorBoard."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metalab.core.optional_output import optional_output

KEY = "corruptions"  # of a record
COLUMNS = ("run", "bn", "on", "kind", "severity", "accuracy", "ci95")


def rows(record: Mapping[str, Any]) -> dict[str, str]:
    """Say what a record has of corruptions, by label: the mean over all and a row a kind; nothing where it has none."""
    found = record.get(KEY)
    if found is None:
        return {}
    kinds = found["kinds"]
    severities = ", ".join(name for name in next(iter(kinds.values())) if name != "mean")
    of = f"{len(kinds)} kinds" if len(kinds) > 1 else "1 kind"
    drop = f"{100 * found['relative_drop']:.1f} % of the clean accuracy lost"
    said = {"corrupted": f"{_percent(found['mean'])} (mean of {of} at severity {severities}, on {found['on']}; {drop})"}
    for kind, values in kinds.items():
        each = ", ".join(f"{100 * v['accuracy']:.1f}" for name, v in values.items() if name != "mean")
        said[kind.replace("_", " ")] = f"{_percent(values['mean'])} ({each})"
    return said


def _percent(value: Mapping[str, float]) -> str:
    return f"{100 * value['accuracy']:.2f} ± {100 * value['ci95']:.2f} %"


def write(out: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write what the records hold of corruptions to out: nothing where none was measured."""
    if not any(KEY in record for record in records):
        return
    with (out / "corruptions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for run, record in enumerate(records):
            table.writerow((run, record["bn"], "", "clean", 0, record["accuracy"], record["ci95"]))
            given = (run, record["bn"], record[KEY]["on"])
            table.writerows((*given, *row) for row in _measured(record))
    with optional_output("corruptions.png"):
        _draw(out, records)


def _measured(record: Mapping[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    """Give kind, severity (mean: of all), accuracy and ci95; the mean of all kinds last, as kind `mean`."""
    for kind, values in record[KEY]["kinds"].items():
        yield from ((kind, name, v["accuracy"], v["ci95"]) for name, v in values.items())
    yield "mean", "mean", record[KEY]["mean"]["accuracy"], record[KEY]["mean"]["ci95"]


def _draw(out: Path, records: Sequence[Mapping[str, Any]]) -> None:
    from torch.utils.tensorboard import SummaryWriter  # 1.6 s, which no --help should wait for

    from metalab.tracking import figures
    from metalab.tracking.corruptions.figures import chart

    first = records[0]
    of = f"{first['images']} images" if "images" in first else f"{first['episodes']} episodes"
    clean = ", ".join(f"{100 * record['accuracy']:.1f} %" for record in records)
    if len(records) == 1:
        kinds = first[KEY]["kinds"]
        columns = [name if name == "mean" else f"severity {name}" for name in next(iter(kinds.values()))]
        cells = {kind: [v["accuracy"] for v in values.values()] for kind, values in kinds.items()}
    else:
        columns = [f"run {run}" for run in range(len(records))]
        names = first[KEY]["kinds"]
        cells = {kind: [record[KEY]["kinds"][kind]["mean"]["accuracy"] for record in records] for kind in names}
        cells["mean"] = [record[KEY]["mean"]["accuracy"] for record in records]
    figure = chart(cells, columns, f"accuracy on corrupted images ({first[KEY]['on']}), %\n{of}, clean {clean}")
    figures.save(figure, out / "corruptions.png")
    with SummaryWriter(str(out)) as writer:
        for run, record in enumerate(records):
            for kind, severity, accuracy, ci95 in _measured(record):
                writer.add_scalar(f"corrupt/{kind}_{severity}/accuracy", accuracy, run)
                writer.add_scalar(f"corrupt/{kind}_{severity}/ci95", ci95, run)
        writer.add_image("corrupt/chart", figures.pixels(figure), dataformats="HWC")
