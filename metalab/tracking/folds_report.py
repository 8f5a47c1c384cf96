"""What the runs of all folds come to: folds.json, and a table on the screen."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from metalab.core.disk import disk_errors
from metalab.core.statistics import mean_ci95, sample_sd, t95

NOTE = "the folds share training images, so both intervals are approximate"


def write(
    out: Path, records: Sequence[Mapping[str, Any]], best: Sequence[float], console: Console | None = None
) -> None:
    """Write folds.json to out and show it.

    Over images: the share of all images that are classified rightly, each by the net that did not train on it, with the
    interval of so many zeros and ones. Over folds: the mean of the folds' accuracies with Student's interval of so many
    values. Bengio and Grandvalet, "No Unbiased Estimator of the Variance of K-Fold Cross-Validation" (JMLR 5, 2004), is
    why neither is exact.

    Args:
        out: the folder that holds fold0, fold1, ...
        records: of each fold's evaluation, in order: accuracy, images, run, checkpoint.
        best: the best validation accuracy of each fold's training.
    """
    accuracy = [record["accuracy"] for record in records]
    images = [record["images"] for record in records]
    right = [round(share * n) for share, n in zip(accuracy, images, strict=True)]
    over_images = mean_ci95(np.repeat([1.0, 0.0], [sum(right), sum(images) - sum(right)]))
    over_folds = mean_ci95(accuracy)
    whole = {
        "over_images": {"accuracy": over_images[0], "ci95": over_images[1], "images": sum(images)},
        "over_folds": {
            "accuracy": over_folds[0],
            "ci95": over_folds[1],
            "sd": sample_sd(accuracy),
            "folds": len(records),
        },
        "note": NOTE,
        "folds": [
            {
                "fold": k,
                "accuracy": record["accuracy"],
                "ci95": record["ci95"],
                "images": record["images"],
                "right": right[k],
                "validation": best[k],
                "run": record["run"],
            }
            for k, record in enumerate(records)
        ],
    }
    path, new = out / "folds.json", out / ".folds.json.new"
    with disk_errors(path):
        new.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        os.replace(new, path)
    (console or Console(highlight=False)).print(table(whole), path, sep="\n")


def table(whole: Mapping[str, Any]) -> Table:
    """Lay out a row a fold, and both means below; accuracies in per cent."""
    grid = Table(box=box.SIMPLE, pad_edge=False, caption_justify="left")
    for name in ("fold", "images", "right", "accuracy, %", "validation, %"):
        grid.add_column(name, justify="right", no_wrap=True)
    for fold in whole["folds"]:
        numbers = (f"{100 * fold[name]:.2f}" for name in ("accuracy", "validation"))
        grid.add_row(f"{fold['fold']}", f"{fold['images']}", f"{fold['right']}", *numbers)
    grid.add_section()
    images, folds = whole["over_images"], whole["over_folds"]
    right = sum(fold["right"] for fold in whole["folds"])
    grid.add_row("all", f"{images['images']}", f"{right}", _percent(images), "", style="bold")
    grid.add_row("mean", "", "", _percent(folds), "")
    grid.caption = (
        f"± 95 %: all, {t95(images['images']):.2f} sd / sqrt({images['images']} images); mean, "
        f"{t95(folds['folds']):.2f} sd / sqrt({folds['folds']} folds); {whole['note']}"
    )
    return grid


def _percent(mean: Mapping[str, float]) -> str:
    return f"{100 * mean['accuracy']:.2f} ± {100 * mean['ci95']:.2f}"
