"""The table of docs/robustness.md: accuracy by the size of the attack, what it says of three aims, and the pictures."""

from pathlib import Path
from typing import Any

from reproduce_rows import Row

from metalab.tracking import figures

CURVE = (0, 8, 16, 26, 51, 77)  # 255ths
AT = 51  # what is trained on and what the table is of
Record = dict[str, Any]


def percent(record: Record) -> str:
    return f"{100 * record['accuracy']:.1f} ± {100 * (record['ci95'] or 0):.1f}"


def curve_table(rows: list[Row], records: dict[str, list[Record]], document: Path) -> list[str]:
    """Return the table, the aims and the trainings; draw a picture a method beside the document."""
    held = {row.name: records[row.name][0] for row in rows if records[row.name]}
    found = {name: pair for name, record in held.items() if (pair := evaluated(record)) is not None}
    head = "| method | training | steps | bn | clean | "
    head += " | ".join([*(f"PGD {eps}/255" for eps in CURVE[1:]), "zero gr.", f"AutoAttack {AT}/255", "trained"]) + " |"
    lines = [head, "|---" * (8 + len(CURVE[1:])) + "|"]
    for name, (clean, attacked) in found.items():
        cells = [*name.split("_"), str(clean["step"]), clean["bn"], percent(clean)]
        cells += [percent(attacked[eps]) for eps in CURVE[1:]]
        cells += [f"{100 * (attacked[AT]['zero_gradients'] or 0):.2g} %", auto(held[name]), origin(held[name])]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *aims({name.replace("_", "/"): pair for name, pair in found.items()})]
    missing = [row.name.replace("_", "/") for row in rows if row.name not in found]
    lines += ["", f"Not run: {', '.join(missing)}."] if missing else []
    lines += ["", "Each row's training:", "", "```bash"]
    lines += [command for name in found for command in held[name]["commands"]]
    key = next(iter(rows[0].evaluations))
    lines += ["```", "", f"and its evaluation: `metalab eval run=RUN {key}`, with its episodes where others are named."]
    return [*lines, "", *drawn(found, document)]


def evaluated(record: Record) -> tuple[Record, dict[int, Record]] | None:
    """Return the clean and the attacked records by eps of a run's curve; None where it has none."""
    for found in record["evaluations"].values():
        attacked = {each["eps"]: each for each in found.get("attacks", ()) if each["name"] == "pgd"}
        if set(CURVE) <= set(attacked) | {0}:
            return found, attacked
    return None


def auto(record: Record) -> str:
    """Return the accuracy under AutoAttack and over how many episodes; nothing where it was not run."""
    for found in record["evaluations"].values():
        for each in found.get("attacks", ()):
            if (each["name"], each["eps"]) == ("auto", AT):
                return f"{percent(each)} ({found['episodes']} episodes)"
    return ""


def origin(record: Record) -> str:
    """Say where a row was measured."""
    commits = [each.partition(",")[0][:7] for each in record["commit"] if each]
    return ", ".join([*record["device"], *([record["date"]] if record["date"] else []), *commits[-1:]])


def drawn(found: dict[str, tuple[Record, dict[int, Record]]], document: Path) -> list[str]:
    """Draw a picture a method, and return the lines that show them."""
    lines = []
    for method in dict.fromkeys(name.partition("_")[0] for name in found):
        curves = {
            name.partition("_")[2]: [
                (eps, (attacked[eps] if eps else clean)["accuracy"], (attacked[eps] if eps else clean)["ci95"] or 0.0)
                for eps in CURVE
            ]
            for name, (clean, attacked) in found.items()
            if name.startswith(method)
        }
        way = next(clean["way"] for name, (clean, _) in found.items() if name.startswith(method))
        picture = document.with_name(f"{document.stem}_{method}.png")
        title = f"{method}, PGD-20 on the queries, trained at {AT}/255"
        figures.save(figures.robustness_curve(curves, "linf", title, way), picture)
        lines.append(f"![{method}]({picture.name})")
    return lines


def aims(found: dict[str, tuple[Record, dict[int, Record]]]) -> list[str]:
    """Say whether, at 51/255, natural is at most 30 %, AQ 30 points above it, and AQ's clean at most 5 points lower."""
    said = []
    for method in dict.fromkeys(name.partition("/")[0] for name in found):
        if f"{method}/natural" not in found or f"{method}/aq" not in found:
            continue
        (clean, natural), (clean_aq, aq) = found[f"{method}/natural"], found[f"{method}/aq"]
        low, gain = 100 * natural[AT]["accuracy"], 100 * (aq[AT]["accuracy"] - natural[AT]["accuracy"])
        cost = 100 * (clean["accuracy"] - clean_aq["accuracy"])
        verdicts = [
            f"natural {low:.1f} % ({'at most' if low <= 30 else 'above'} 30 %)",
            f"AQ {gain:+.1f} points ({'at least' if gain >= 30 else 'less than'} 30)",
            f"AQ's clean accuracy {-cost:+.1f} points ({'within' if cost <= 5 else 'more than'} 5 below natural)",
        ]
        said.append(f"- {method} at {AT}/255: {'; '.join(verdicts)}.")
    return said
