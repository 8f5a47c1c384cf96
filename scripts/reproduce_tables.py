"""The tables of docs/results.md and docs/robustness.md from the jsons of reproduce.py."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from reproduce_curves import curve_table
from reproduce_rows import Mistake, Number, Row
from scipy.stats import t as student

from metalab.core.statistics import sample_sd

HEAD = (
    "| method | task | bn | queries | ours | over seeds | published | difference | bar | steps | trained | settings |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
)
Record = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One number of a row, over the seeds that have it."""

    values: list[float]  # per cent, a seed each
    halves: list[float]  # 95 % intervals over episodes
    records: list[Record]  # of the runs
    found: list[Record]  # of the evaluations

    @property
    def value(self) -> float:
        return mean(self.values)

    @property
    def spread(self) -> str:
        """Standard deviation and Student's t interval over the seeds' means; nothing for one seed."""
        n, sd = len(self.values), sample_sd(self.values)
        if n == 1:
            return ""
        half = float(student.ppf(0.975, n - 1)) * sd / math.sqrt(n)
        return f"{n} seeds: sd {sd:.2f}, t ± {half:.2f}"


def marks(table: str) -> tuple[str, str]:
    """Return the lines between which a table stands in its document."""
    return f"<!-- begin scripts/reproduce.py {table} -->", f"<!-- end scripts/reproduce.py {table} -->"


def read(row: Row, results: Path) -> list[Record]:
    """Return a row's jsons, those that were measured first."""
    paths = [
        *sorted((results / row.table).glob(f"{row.name}.seed*.json")),
        results / row.table / f"{row.name}.document.json",
    ]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def alike(records: list[Record]) -> list[Record]:
    """Return the runs that a mean may be taken over: those at their end, or else the one that was trained longest.

    What was taken over from a document counts where nothing was measured.
    """
    measured = [record for record in records if record["origin"] == "measured"] or records
    ended = [record for record in measured if record["planned"] is not None and record["steps"] >= record["planned"]]
    return ended or sorted(measured, key=lambda record: record["steps"] or 0)[-1:]


def picked(number: Number, found: Record) -> tuple[float, float]:
    """Return a line's accuracy and its interval, per cent, of an evaluation: of all queries, of one presentation, or
    of those right under an attack."""
    if number.presentation is not None:
        found = found["presentations"][str(number.presentation)]
    if number.attack is not None:
        [found] = [each for each in found["attacks"] if (each["name"], each["eps"]) == (number.attack, number.eps)]
    return 100 * found["accuracy"], 100 * (found["ci95"] or 0.0)


def number_of(number: Number, records: list[Record]) -> Measured | None:
    """Return a line's number over the seeds that have it; None where nothing has."""
    held = alike([record for record in records if number.key in record["evaluations"]])
    found = [record["evaluations"][number.key] for record in held]
    pairs = [picked(number, each) for each in found]
    return Measured([v for v, _ in pairs], [h for _, h in pairs], held, found) if held else None


def told(row: Row, record: Record) -> list[str]:
    """Say the numbers of one json in a few words."""
    said = []
    for number in row.numbers:
        if number.key in record["evaluations"]:
            value, half = picked(number, record["evaluations"][number.key])
            said.append(f"{number.method or row.method} {value:.2f} ± {half:.2f} %")
    return said


def line(row: Row, number: Number, records: list[Record], error: bool) -> str:
    """Return a line of a table of numbers."""
    method = number.method or row.method
    published = number.told if number.published is None else f"{number.published} ({number.source})"
    bar = "" if number.least is None else f"{number.least:.4g}"
    measured = number_of(number, records)
    if measured is None:
        words = settings([*(["run=null"] if row.untrained else []), *row.train], number)
        return f"| {method} | {number.task or ''} | | | not run yet | | {published} | | {bar} | | | {words} |"
    ours, least, found = measured.value, number.least, measured.found[0]
    gap = "" if number.published_percent is None else f"{ours - number.published_percent:+.1f}"
    cells = (
        method,
        number.task or f"{found['way']}-way {found['shot']}-shot",
        "" if found["transductive"] is None else f"{found['bn'] or 'none'}{', transductive' * found['transductive']}",
        "" if number.presentation is not None or found["query"] is None else found["query"],
        f"**{100 - ours if error else ours:.2f} ± {mean(measured.halves):.2f}**",
        measured.spread,
        published,
        gap,
        bar if least is None else f"{bar}, {'met' if ours >= least else 'not met'}",
        "none" if row.untrained else steps(measured),
        trained(measured.records),
        settings([*(["run=null"] if row.untrained else []), *measured.records[0]["settings"]], number),
    )
    return f"| {' | '.join(map(str, cells))} |"


def steps(measured: Measured) -> str:
    """Say which step validated best, of those taken, of those planned."""
    best = [str(found["step"]) for found in measured.found if found["step"] is not None]
    taken = list(dict.fromkeys(record["steps"] for record in measured.records))
    planned = measured.records[0]["planned"]
    cut = f", {planned} planned" if planned is not None and max(taken) < planned else ""
    said = [", ".join(best)] if best else []
    return " of ".join([*said, ", ".join(map(str, taken))]) + cut


def trained(records: list[Record]) -> str:
    """Say how long the trainings took, on what, when and with which commit."""
    minutes = mean(record["minutes"] if "minutes" in record else record["seconds"] / 60 for record in records)
    devices = list(dict.fromkeys(device for record in records for device in record["device"]))
    dates = sorted({record["date"] for record in records if record["date"]})
    commits = list(dict.fromkeys(short(each) for record in records for each in record["commit"] if each))
    each = " each" if len(records) > 1 else ""
    return ", ".join(
        [f"{minutes:.0f} min{each}" if minutes >= 1 else f"{60 * minutes:.0f} s{each}", *devices, *dates, *commits]
    )


def short(commit: str) -> str:
    """Return the first digits of a commit, and whether the code differed from it."""
    digits, _, changes = commit.partition(", ")
    return f"{digits[:7]} {changes}".rstrip()


def settings(words: list[str], number: Number) -> str:
    """Say what is typed, but for data.root, seed and folders."""
    said = [f"`{' '.join(words)}`"] if words else []
    return "; eval ".join(said + ([f"`{number.key}`"] if number.key else []))


def numbers_table(rows: list[Row], results: Path, error: bool) -> list[str]:
    """Return a table of numbers."""
    lines = [line(row, number, read(row, results), error) for row in rows for number in row.numbers]
    return [*HEAD, *lines]


def write(tables: dict[str, dict[str, Any]], rows: list[Row], results: Path, docs: Path) -> int:
    """Write every table between its marks in its document; Mistake where a mark is missing. The exit code, 0."""
    for name, table in tables.items():
        own = [row for row in rows if row.table == name]
        path, (start, end) = docs / table["document"], marks(name)
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if start not in text or end not in text:
            raise Mistake(f"{path} has no lines {start} and {end} to write the table between")
        if table["kind"] == "curve":
            lines = curve_table(own, {row.name: alike(read(row, results)) for row in own}, path)
        else:
            lines = numbers_table(own, results, table.get("error", False))
        before, _, rest = text.partition(start)
        after = rest.partition(end)[2]
        path.write_text(f"{before}{start}\n" + "\n".join(lines) + f"\n{end}{after}", encoding="utf-8")
        print(f"wrote the table {name} of {path}")
    return 0
