"""report.html: the sections of a comparison's page."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from metalab.tracking import html_report as html
from metalab.tracking.comparison import episode_html, figures, tables, words
from metalab.tracking.comparison.records import Comparison, DataResult
from metalab.tracking.figures import robustness_curve

VERSIONS = ("metalab", "python", "torch", "torchvision", "numpy", "hydra-core", "learn2learn")


def page(comparison: Comparison) -> str:
    """Return the page."""
    names = ", ".join(data.name for data in comparison.data)
    sections = [(heading, body) for heading, body in _sections(comparison) if body]
    runs = sum(len(method.runs) for method in comparison.methods)
    said = f"{runs} runs of {len(comparison.methods)} methods, tested on {names}."
    return html.page("Comparison of runs", sections, html.paragraph(said))


def _sections(comparison: Comparison) -> Iterator[tuple[str, str]]:
    yield "Result", "".join(_result(data, comparison) for data in comparison.data) + _ranks(comparison)
    yield "What to keep in mind", html.items(comparison.notes)
    yield "Training", _training(comparison)
    for heading, make in (
        ("Adaptation", _adaptation),
        ("Under attack", _robust),
        ("Classes", _classes),
        ("Difficulty of the episodes", _difficulty),
        ("Episodes", _episodes),
    ):
        yield heading, "".join(make(data, comparison) for data in comparison.data)
    yield "Settings that differ", _settings(comparison)
    yield "What made each run", _made_by(comparison)


def _order(comparison: Comparison) -> dict[str, int]:
    return {method.label: i for i, method in enumerate(comparison.methods)}


def _of_run(comparison: Comparison) -> dict[int, int]:
    """Return run -> number of its method."""
    return {run: i for i, method in enumerate(comparison.methods) for run in method.runs}


def _result(data: DataResult, comparison: Comparison) -> str:
    """Return the table and the picture of the intervals."""
    rows, alpha = [tables.cells(row, data) for row in data.rows], comparison.alpha
    caption = f"{data.name}: {data.task}. Differences: the method less the best one."
    table = html.table(caption, tables.headings(data), rows, [row.best for row in data.rows])
    alt = f"Accuracy on {data.name}: " + "; ".join(
        f"{row.method.label} {words.accuracy(row.accuracy)} %" for row in data.rows
    )
    drawn = figures.intervals(data.rows, _order(comparison), f"{data.name}, accuracy")
    said = f"p-values are two-sided, and by Holm where a method is ranked; significance is over {data.level}, at "
    said += f"{alpha:g}. {tables.MARKS}."
    return table + html.paragraph(said, "note") + html.figure(drawn, alt)


def _ranks(comparison: Comparison) -> str:
    """Return the critical-difference picture; nothing where there are no ranks."""
    if comparison.ranks is None:
        return ""
    labels = [method.label for method in comparison.methods]
    drawn = figures.critical_difference(comparison.ranks, labels, "average ranks over data sets, 1 is best")
    said = tables.ranks(comparison)
    return html.figure(
        drawn, said, f"{said}. Methods that a thick bar joins do not differ significantly (Demšar 2006)."
    )


def _training(comparison: Comparison) -> str:
    """Return the curves of validation accuracy and training loss."""
    found: list[str] = []
    for key, title, share in (
        ("val/accuracy", "accuracy on the validation episodes", True),
        ("train/loss", "training loss", False),
    ):
        lines: list[figures.Curve] = []
        for run, method in _of_run(comparison).items():
            points = [(line["step"], line[key]) for line in comparison.training[run] if line.get(key) is not None]
            if points:
                xs, ys = zip(*points, strict=True)
                lines.append((comparison.methods[method].label, method, xs, ys))
        if lines:
            drawn = figures.curves(lines, "meta-steps", title, f"{title}, a line a run", share)
            ends = "; ".join(f"{label} {ys[-1]:.3g} at step {xs[-1]}" for label, _, xs, ys in lines)
            found.append(html.figure(drawn, f"Curves of {title}: {ends}"))
    return html.side_by_side(*found) if found else ""


def _adaptation(data: DataResult, comparison: Comparison) -> str:
    """Return accuracy over inner steps, of the runs that take any."""
    lines: list[figures.Curve] = []
    for run, method in _of_run(comparison).items():
        if curve := data.runs[run].adaptation:
            lines.append((comparison.methods[method].label, method, range(len(curve)), [mean for mean, _ in curve]))
    if not lines:
        return ""
    drawn = figures.curves(lines, "inner steps", "query accuracy", f"{data.name}, accuracy after each inner step")
    ends = "; ".join(f"{label} from {100 * ys[0]:.1f} % to {100 * ys[-1]:.1f} %" for label, _, _, ys in lines)
    under = "Of the runs that adapt in inner steps, on at most 100 of the episodes; 0 is before the first one."
    return html.figure(drawn, f"Accuracy after each inner step on {data.name}: {ends}", under)


def _robust(data: DataResult, comparison: Comparison) -> str:
    """Return accuracy over the size of the attacks, where there were any."""
    curves: dict[str, list[tuple[float, float, float]]] = {}
    rows, norm = [], "linf"
    for run, result in enumerate(data.runs):
        for attack in result.record.get("attacks", ()):
            label, norm = f"{comparison.run_labels[run]}, {attack['name']}", attack["norm"]
            clean = (0.0, float(result.record["accuracy"]), float(result.record["ci95"]))
            points = curves.setdefault(label, [clean])
            if attack["eps"] > 0:
                points.append((attack["eps"], attack["accuracy"], attack["ci95"]))
            half = 100 * attack["ci95"]
            rows.append([label, f"{attack['eps']:g}/255", f"{100 * attack['accuracy']:.2f} ± {half:.2f}", attack["on"]])
    if not curves:
        return ""
    curves = {label: sorted(points) for label, points in curves.items()}
    drawn = robustness_curve(curves, norm, f"{data.name}, accuracy under attack", data.runs[0].record["way"])
    table = html.table(f"{data.name}, {norm}", ["run and attack", "size", "accuracy, %", "attacked"], rows)
    return html.figure(drawn, f"Accuracy under attack on {data.name}; the table below has the numbers") + table


def _classes(data: DataResult, comparison: Comparison) -> str:
    """Return accuracy by class, of the runs on the same episodes."""
    columns: dict[str, dict[str, float]] = {}
    for method in comparison.methods:
        found = [data.runs[i].classes for i in method.runs if data.runs[i].paired]
        by_name = [
            dict(zip(each["class"], each["accuracy"] if "accuracy" in each else each["recall"], strict=True))
            for each in found
            if each is not None
        ]
        if by_name:
            names = set.intersection(*(set(each) for each in by_name))
            columns[method.label] = {name: float(np.mean([each[name] for each in by_name])) for name in names}
    if not columns or not set.intersection(*(set(column) for column in columns.values())):
        return ""
    drawn = figures.class_bars(columns, _order(comparison), f"{data.name}, accuracy by class")
    alt = f"Bars of accuracy by class on {data.name}, for the classes that are hardest on average"
    return html.figure(drawn, alt, f"The {figures.CLASSES} hardest classes at most; the mean over seeds.")


def _difficulty(data: DataResult, comparison: Comparison) -> str:
    """Return how accuracy falls with difficulty, and the episodes where methods differ most."""
    found = data.difficulty
    if found is None:
        return ""
    drawn = figures.difficulty(found, _order(comparison), f"{data.name}, accuracy by difficulty")
    under = f"{data.units} sorted by the mean accuracy of all methods; compare_episodes.csv has each of them."
    numbers = np.argsort(-found.disagreement, kind="stable")[:10]
    rows = [
        [f"{n}", *(f"{100 * each[n]:.1f}" for each in (found.mean, found.disagreement, *found.accuracy))]
        for n in numbers
    ]
    heads = [data.units[:-1], "mean", "apart", *found.methods]
    caption = f"{data.name}: where methods are furthest apart; accuracy in %, the largest less the smallest in points"
    alt = f"Accuracy of each method over the difficulty of the {data.units} of {data.name}"
    return html.figure(drawn, alt, under[0].upper() + under[1:]) + html.table(caption, heads, rows)


def _episodes(data: DataResult, comparison: Comparison) -> str:
    """Return the pictures of single episodes."""
    if not data.shown:
        return ""
    signs = episode_html.letters(list(data.shown[0].answers))
    said = f"{data.name}. Below each query: ✓ right, ✗ with the number of the class that was chosen instead; by run: "
    said += ", ".join(f"{sign} {label}" for label, sign in signs.items())
    return html.paragraph(said) + "".join(episode_html.episode(each) for each in data.shown)


def _settings(comparison: Comparison) -> str:
    """Return the settings in which the methods' trainings differ, and their seeds."""
    heads = ["setting", *(method.label for method in comparison.methods)]
    rows = [
        [key, *("–" if v is None else v if isinstance(v, str) else json.dumps(v, default=str) for v in values)]
        for key, values in comparison.settings.items()
    ]
    rows.append(["seed", *(", ".join(map(str, method.seeds)) for method in comparison.methods)])
    return html.table("Only the keys that differ; – : no such key, or null", heads, rows)


def _made_by(comparison: Comparison) -> str:
    """Return what run.json says of each run."""
    rows = []
    for run, made in enumerate(comparison.made_by):
        record = comparison.data[0].runs[run].record
        rows.append(
            [comparison.run_labels[run], comparison.data[0].runs[run].folder, f"{record['step']}", *_made(made)]
        )
    heads = ["run", "folder", "best step", "started", "seconds", "command", "commit", "versions", "processor"]
    return html.table("As the runs wrote it down; – : not recorded", heads, rows)


def _made(made: Mapping[str, Any]) -> list[str]:
    git, versions = made.get("git"), made.get("versions")
    commit = (
        f"{str(git.get('commit'))[:12]}{', with changes' if git.get('dirty') else ''}" if isinstance(git, dict) else "–"
    )
    held = versions if isinstance(versions, dict) else {}
    told = ", ".join(f"{name} {held[name]}" for name in VERSIONS if held.get(name))
    device = made.get("gpu") or made.get("processor")
    plain = [made.get("started"), made.get("seconds"), made.get("command"), commit, told, device]
    return ["–" if value in (None, "") else str(value) for value in plain]
