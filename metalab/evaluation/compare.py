"""`metalab compare`: runs on the same test episodes, how far they differ and how sure that is."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from metalab.config import run_config
from metalab.config.experiment import ExperimentConfig, read_config
from metalab.config.instantiate import settings
from metalab.config.schema import Compare, Task
from metalab.config.upgrade import upgrade_config
from metalab.core.signals import warnings_survived
from metalab.core.statistics import Ranks, average_ranks
from metalab.core.text import printable
from metalab.evaluation.comparison.comparability import verdicts
from metalab.evaluation.comparison.difficulty import difficulty, shown_episodes
from metalab.evaluation.comparison.measured import Measured, measure_run
from metalab.evaluation.comparison.methods import differing_settings, group_methods, run_labels
from metalab.evaluation.comparison.ranking import rank
from metalab.tracking import compare_report
from metalab.tracking.comparison.records import Comparison, DataResult, Method, RunResult
from metalab.tracking.eval_report import queries
from metalab.tracking.run_lock import locked_run

logger = logging.getLogger("metalab")
KEYS = ("compare",)  # of the root, beside those of every command
FEW = 6  # data sets below which ranks over them have little power


def run(by_data: Mapping[str, Sequence[tuple[Path, DictConfig]]], out: Path) -> float:
    """Measure the runs on each data set, write the comparison to out, and return the best method's accuracy.

    Args:
        by_data: for each data set ("": each run's own) the runs' folders and configurations, in the same order.
        out: the folder of the report.

    Raises:
        UserError: as metalab eval does, for any of the runs and before the first is measured where that can be.
    """
    with locked_run(out), warnings_survived():
        configs = {name: [read_config(cfg, KEYS) for _, cfg in pairs] for name, pairs in by_data.items()}
        folders = [folder for folder, _ in next(iter(by_data.values()))]
        first = next(iter(configs.values()))
        asked = settings(Compare, first[0].whole["compare"], "compare")
        trained = [_trained(folder) for folder in folders]
        methods = _methods(folders, trained)
        labels = run_labels(methods, len(folders))
        data = [_on_data(name, folders, configs[name], methods, labels, asked) for name in by_data]
        comparison = Comparison(
            alpha=asked.alpha,
            methods=methods,
            run_labels=labels,
            data=data,
            ranks=_ranks(methods, data, asked.alpha),
            settings=differing_settings([trained[method.runs[0]] for method in methods]),
            made_by=[_json(folder / "run.json") for folder in folders],
            training=[_lines(folder / "metrics.jsonl") for folder in folders],
            notes=_notes(methods, data),
        )
        compare_report.write(out, comparison)
    return data[0].rows[0].accuracy.mean


def _trained(folder: Path) -> dict[str, Any]:
    """Return a run's settings, those that are newer than the run with the values that reproduce it."""
    whole = upgrade_config(run_config.read(folder))
    later = {field.name: field.default for field in fields(Task) if field.default is not MISSING}
    return {**whole, "task": later | whole["task"]}


def _methods(folders: Sequence[Path], trained: Sequence[Mapping[str, Any]]) -> list[Method]:
    """Return which runs are one method, by how they were trained: the command line is the same for all."""
    names = [printable(str(folder)) for folder in folders]
    return group_methods(trained, [own.get("seed") for own in trained], names)


def _on_data(
    name: str,
    folders: Sequence[Path],
    configs: Sequence[ExperimentConfig],
    methods: Sequence[Method],
    labels: Sequence[str],
    asked: Compare,
) -> DataResult:
    """Measure all runs on one data set, and compare them."""
    measured: list[Measured] = []
    for folder, config, label in zip(folders, configs, labels, strict=True):
        logger.info(f"{label}{f' on {name}' if name else ''}: {len(measured) + 1} of {len(folders)}")
        measured.append(measure_run(folder, config))
    judged = verdicts([each.episodes for each in measured], [each.conditions for each in measured])
    runs = [
        RunResult(printable(str(folder)), m.record, m.accuracy, m.classes, m.adaptation, v.remarks, v.paired, v.ranked)
        for folder, m, v in zip(folders, measured, judged, strict=True)
    ]
    paired = next(run for run in runs if run.paired)
    rule = paired.record
    units = "images" if rule["episodes"] is None else "episodes"
    rows, level = rank(methods, runs, units, asked.alpha)
    hard = difficulty(methods, runs)
    shown = [] if hard is None else shown_episodes(hard, measured, runs, labels, asked.pictures)
    return DataResult(
        name or str(rule["data"]), _task(rule, len(paired.accuracy)), units, runs, rows, level, hard, shown
    )


def _task(rule: Mapping[str, Any], count: int) -> str:
    """Say what was measured."""
    if rule["episodes"] is None:
        return f"plain classification of {rule['way']} classes, {count} images, {rule['split']} split"
    size = f"{rule['way']}-way {rule['shot']}-shot, {queries(rule)}"
    return f"{size}, {count} episodes of the {rule['split']} split, seed {rule['seed']}"


def _ranks(methods: Sequence[Method], data: Sequence[DataResult], alpha: float) -> Ranks | None:
    """Return the average ranks over data sets; None for fewer than 3 methods or 2 sets, or where one is not ranked."""
    if len(methods) < 3 or len(data) < 2 or not all(row.ranked for each in data for row in each.rows):
        return None
    found = [{row.method.label: row.accuracy.mean for row in each.rows} for each in data]
    return average_ranks(np.array([[each[method.label] for method in methods] for each in found]), alpha)


def _notes(methods: Sequence[Method], data: Sequence[DataResult]) -> list[str]:
    """Return what a reader must know of how sure the comparison is."""
    notes = []
    single = [method.label for method in methods if len(method.runs) == 1]
    if any(each.level == "seeds" for each in data):
        ranked = [row for each in data if each.level == "seeds" for row in each.rows if row.ranked]
        fewest = min(len(row.method.runs) for row in ranked)
        notes.append(
            "Every ranked method has several seeds: significance is about the methods, over seeds."
            + (f" {fewest} seeds show only very large differences." if fewest < 5 else "")
        )
    elif single:
        notes.append(
            "Significance is about these nets, over the test images or episodes: what another seed of the training "
            f"would give is not known of {', '.join(single)}."
        )
    notes.append("The best one was chosen by these same numbers, which flatters it a little.")
    if 1 < len(data) < FEW and len(methods) >= 3:
        notes.append(
            f"{len(data)} data sets are few for ranks over them: Friedman's and Nemenyi's tests have little power."
        )
    for each in data:
        notes += [f"{row.method.label} on {each.name}: {remark}" for row in each.rows for remark in row.remarks]
    return notes


def _json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds; nothing where there is none that can be read."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl that can be read: the last one of a killed run may be cut."""
    found = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            found.append(values)
    return found
