"""Train each experiment=omniglot_*, evaluate it and collect the table of docs/results.md.

python scripts/omniglot_table.py --root DATA/omniglot --minutes 60              all of them, one after another
python scripts/omniglot_table.py --root DATA/omniglot --minutes 60 siamese mann those alone
python scripts/omniglot_table.py --collect                                      the table from what has been run

A run lives in outputs/omniglot/NAME; where it was begun it is resumed, up to --minutes of training in all. What is
compared with (scripts/omniglot_published.yaml) is typed in from the papers; every other number is read from the runs.
A row whose run is not there stays as the document has it.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from metalab.config import conf_dir

PUBLISHED = Path(__file__).with_name("omniglot_published.yaml")
START, END = "<!-- begin scripts/omniglot_table.py -->", "<!-- end scripts/omniglot_table.py -->"
HEAD: tuple[str, ...] = (
    "| method | `experiment=omniglot_` | task | bn | queries | ours | published | difference "
    "| bar | steps | training | further settings |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line; names without the word omniglot_."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="experiments to run, without omniglot_; none: all")
    parser.add_argument("--root", help="the folder with Omniglot's zips")
    parser.add_argument("--minutes", type=float, default=60, help="of training for each, over all resumes")
    parser.add_argument("--out", type=Path, default=Path("outputs/omniglot"), help="where the runs are kept")
    parser.add_argument("--table", type=Path, default=Path("docs/results.md"), help="the document to write into")
    parser.add_argument("--collect", action="store_true", help="train nothing, collect what there is")
    parser.add_argument("--extra", default="", help="further settings of every training, as one word in quotes")
    return parser.parse_args(argv)


def rows() -> list[dict[str, Any]]:
    """Return the rows in the order of the table; a row a published number, several an experiment where it has more."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def metalab(*words: str) -> None:
    """Run metalab with these words; CalledProcessError where it fails."""
    code = "from metalab.cli import main; main()"
    print("metalab", shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-c", code, *words], check=True)


def train(name: str, given: argparse.Namespace) -> None:
    """Train one experiment, or go on with it."""
    folder = given.out / name
    if (folder / "last.pt").is_file():
        return metalab("train", f"resume={folder}", f"train.minutes={given.minutes}")
    root = [f"data.root={given.root}"] if given.root else []
    words = [f"experiment=omniglot_{name}", *root, f"train.minutes={given.minutes}", *shlex.split(given.extra)]
    metalab("train", *words, f"hydra.run.dir={folder}")


def evaluate(name: str, given: argparse.Namespace) -> None:
    """Test one experiment once for each of its rows."""
    for index, row in enumerate(r for r in rows() if r["experiment"] == name):
        out = given.out / f"{name}_eval{index}"
        metalab("eval", f"run={given.out / name}", *row.get("eval", []), f"hydra.run.dir={out}")


def line(row: dict[str, Any], folder: Path, evaluated: Path, before: list[str]) -> str:
    """Return one row of the table, from eval.json and run.json, or else as it stands in the lines before."""
    published = row.get("published")
    told = row.get("told", "none") if published is None else f"{published} ({row['source']})"
    if not (evaluated / "eval.json").is_file():
        kept = [known for known in before if known.startswith(f"| {row['method']} |")]
        return kept[0] if kept else f"| {row['method']} | | | | | not run by this command yet | {told} | | | | | |"
    found = json.loads((evaluated / "eval.json").read_text())
    made = json.loads((folder / "run.json").read_text())
    ours = row_accuracy(row, found)
    gap = "" if published is None else f"{ours[0] - float(str(published).split()[0]):+.1f}"
    cells = (
        row["method"],
        row["experiment"],
        row.get("task", f"{found['way']}-way {found['shot']}-shot"),
        f"{found['bn'] or 'none'}{', transductive' if found['transductive'] else ''}",
        "" if "presentation" in row else found["query"],
        f"**{ours[0]:.2f} ± {ours[1]:.2f}**",
        told,
        gap,
        judged(row, ours[0]),
        f"{found['step']} of {made['steps']}",
        f"{made['seconds'] / 60:.0f} min",
        " ".join([*further(made), *row.get("eval", [])]),
    )
    return f"| {' | '.join(map(str, cells))} |"


def judged(row: dict[str, Any], ours: float) -> str:
    """Return the bar of a row, the published number less 1.5 points or else 90, and whether it is met."""
    bar = row.get("bar", 90.0 if row["published"] is None else float(str(row["published"]).split()[0]) - 1.5)
    return "" if bar is None else f"{bar:.4g}, {'met' if ours >= bar else 'not met'}"


def further(made: dict[str, Any]) -> list[str]:
    """Return a training's settings beside those of every row, experiment, root and minutes; a resume's come last."""
    every = ("experiment", "data.root", "train.minutes", "hydra.run.dir", "resume")
    commands = [made["command"], *(resumed["command"] for resumed in made.get("resumes", []))]
    words = dict(word.split("=", 1) for command in commands for word in shlex.split(command)[2:] if "=" in word)
    return [f"{key}={value}" for key, value in words.items() if key not in every]


def row_accuracy(row: dict[str, Any], found: dict[str, Any]) -> tuple[float, float]:
    """Return the accuracy of a row and its interval, in per cent: of all queries, or of one presentation."""
    if "presentation" in row:
        found = found["presentations"][str(row["presentation"])]
    return 100 * found["accuracy"], 100 * found["ci95"]


def collect(given: argparse.Namespace) -> list[str]:
    """Return the table and write it between its marks in the document."""
    seen: dict[str, int] = {}
    lines = list(HEAD)
    before, _, rest = given.table.read_text(encoding="utf-8").partition(START)
    old, _, after = rest.partition(END)
    for row in rows():
        name = row["experiment"]
        index = seen[name] = seen.get(name, -1) + 1
        lines.append(line(row, given.out / name, given.out / f"{name}_eval{index}", old.splitlines()))
    given.table.write_text(f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")
    return lines


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and collect."""
    given = arguments(argv)
    known = sorted(path.stem.removeprefix("omniglot_") for path in (conf_dir() / "experiment").glob("omniglot_*.yaml"))
    wrong = [name for name in given.names if name not in known]
    if wrong:
        sys.exit(f"omniglot_table: no experiment=omniglot_{wrong[0]}; there are: {', '.join(known)}")
    if not given.table.is_file() or START not in given.table.read_text(encoding="utf-8"):
        sys.exit(f"omniglot_table: {given.table} has no line {START} to write the table behind")
    failed = []
    for name in [] if given.collect else given.names or list(dict.fromkeys(r["experiment"] for r in rows())):
        try:
            train(name, given)
            evaluate(name, given)
        except subprocess.CalledProcessError as error:
            failed.append(f"{name} (exit code {error.returncode})")
    print("\n".join(collect(given)))
    if failed:
        sys.exit(f"omniglot_table: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
