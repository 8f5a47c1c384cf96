"""Print the tables of docs/transfer.md, each row with the command that trains it.

python scripts/transfer_table.py digits --root DATA
python scripts/transfer_table.py pacs --root DATA --weights mobilenet_v2-b0353104.pth
python scripts/transfer_table.py distil --root DATA
python scripts/transfer_table.py ensemble

--root is the folder of mnist/, usps/ and pacs/. Runs go into --out; what is there already is not trained again.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metalab.core.statistics import mean_ci95

ADAPTED = {  # what is typed behind the command of source-only: defaults, none of them chosen on a target
    "source only": (),
    "mmd": ("reg=mmd",),
    "coral": ("reg=coral",),
    "dann": ("reg=dann",),
    "entropy of the target": ("reg=entropy_target",),
    "pseudo-labels": ("reg=pseudo_labels",),
    "mixstyle (sees no target)": ("reg=mixstyle",),
}
DIGITS = (
    *("data=domains", "data.source=mnist", "data.target=usps", "data.size=16", "algo=baseline", "backbone.filters=16"),
    *("train.steps=300", "train.val_every=300"),
)
PACS = (
    *("data=domains", "data.size=72", "algo=baseline", "algo.mini_batch=32", "backbone=torchvision"),
    *("backbone.name=mobilenet_v2", "backbone.trainable=1", "train.steps=60", "train.val_every=60"),
)
PACS_ADAPTED = {"mixstyle (sees no target)": ("reg=mixstyle", "reg.mixstyle.at=images")}  # the net is no row of blocks
DOMAINS = ("art_painting", "cartoon", "photo", "sketch")


@dataclass(frozen=True)
class Bench:
    """Runs commands of metalab below a folder, some side by side, each with one thread."""

    out: Path
    jobs: int

    def __call__(self, command: str, folder: Path, *words: str) -> Path:
        """Run a command into a folder, unless what it makes is there; return the folder."""
        made = folder / ("run.json" if command == "train" else f"{command}.json")
        done = made.is_file() and (command != "train" or "finished" in json.loads(made.read_text(encoding="utf-8")))
        if not done:
            line = [sys.executable, "-m", "metalab", command, *words, f"hydra.run.dir={folder}", "device=cpu"]
            threads = {"OMP_NUM_THREADS": "1"}
            ended = subprocess.run(line, env=os.environ | threads, capture_output=True, text=True, check=False)
            if ended.returncode:
                sys.exit(f"{shlex.join(line)}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
        return folder

    def all(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        """Do all of it, so many at once, and return what each returned."""
        with ThreadPoolExecutor(self.jobs) as pool:
            return [each.result() for each in [pool.submit(one) for one in work]]


def held(folder: Path) -> dict[str, Any]:
    """Return an evaluation's record."""
    return json.loads((folder / "eval.json").read_text(encoding="utf-8"))


def percent(values: Sequence[float], sign: str = "") -> str:
    """Return the mean of some shares in per cent, with Student's interval over them where there are several."""
    mean, half = mean_ci95(values)
    interval = "" if len(values) == 1 else f" ± {100 * half:.1f}"
    return f"{100 * mean:{sign}.1f}{interval}"


def row(*cells: object) -> None:
    """Print a line of a table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def adapted(
    bench: Bench,
    name: str,
    shared: Sequence[str],
    targets: dict[str, tuple[str, ...]],
    seeds: list[int],
    methods: dict[str, tuple[str, ...]],
) -> None:
    """Print a line a method: accuracy on the target and its gain over source-only, as trained and with eval.bn=target.

    targets: of each, the words that name it; methods: of each, the words behind source-only's, which is the first.
    Numbers are means over the targets; intervals are over the seeds.
    """

    def one(method: str, words: Sequence[str], target: str, seed: int) -> dict[str, tuple[float, float]]:
        home = bench.out / name / f"{target}-{seed}"
        own = method.split(" (")[0].replace(" ", "_")
        run = bench("train", home / own, *shared, *targets[target], *words, f"seed={seed}")
        plain = home / "source_only"
        found = {}
        for kind, more in {"": (), "target": ("eval.bn=target",), "tent": ("eval.tent=20",)}.items():
            if kind == "tent" and method != "source only":
                continue
            eval_words = (f"run={run}", f"eval.baseline={plain}", "eval.report=false", *more)
            record = held(bench("eval", home / f"{own}-eval{kind}", *eval_words))["domains"]
            found[kind] = record["target"]["accuracy"], record["gain"]["difference"]
        return found

    places = [(target, seed) for target in targets for seed in seeds]
    bench.all([lambda p=p: one("source only", (), *p) for p in places])
    shown = [*targets] if len(targets) > 1 else []
    row("method", *shown, "target, as trained", "gain", "with `eval.bn=target`", "gain")
    row(*["---"] * (5 + len(shown)))
    for method, words in methods.items():
        found = bench.all([lambda p=p, m=method, w=words: one(m, w, *p) for p in places])
        each = [percent([f[""][0] for f, (t, _) in zip(found, places, strict=True) if t == one_]) for one_ in shown]
        cells = [
            cell
            for kind in ("", "target")
            for cell in pair(found, kind, method != "source only" or kind != "", len(seeds))
        ]
        row(method, *each, *cells)
        if method == "source only":
            row("source only, `eval.tent=20`", *[""] * len(shown), "", "", *pair(found, "tent", True, len(seeds)))


def pair(found: list[dict[str, tuple[float, float]]], kind: str, gained: bool, seeds: int) -> tuple[str, str]:
    """Return the accuracy and the gain of one way to evaluate, a mean over the targets of each seed."""
    by_seed = [[each[kind] for each in found[first::seeds]] for first in range(seeds)]
    accuracy, gain = ([float(np.mean([each[i] for each in one])) for one in by_seed] for i in (0, 1))
    return percent(accuracy), percent(gain, "+") if gained else ""


def digits(given: argparse.Namespace, bench: Bench) -> None:
    """MNIST to USPS."""
    roots = (f"data.source_root={given.root / 'mnist'}", f"data.target_root={given.root / 'usps'}")
    adapted(bench, "digits", (*DIGITS, *roots), {"usps": ()}, given.seeds, ADAPTED)


def pacs(given: argparse.Namespace, bench: Bench) -> None:
    """PACS, each domain the target of a training on the three others."""
    net = (f"backbone.weights={given.weights.absolute()}", "backbone.classes=imagenet")
    where = (f"data.root={given.root / 'pacs'}",)
    targets = {domain: (f"data.target={domain}",) for domain in given.targets}
    adapted(bench, "pacs", (*PACS, *net, *where), targets, given.seeds, ADAPTED | PACS_ADAPTED)


def distil(given: argparse.Namespace, bench: Bench) -> None:
    """A student with a quarter of its teacher's parameters on MNIST, with the teacher and without."""
    shared = ("data=mnist", f"data.root={given.root / 'mnist'}", "data.protocol=images", "algo=baseline")
    shared += (f"train.steps={given.steps}", f"train.val_every={given.steps}")

    def one(name: str, seed: int, *words: str) -> tuple[int, float]:
        run = bench("train", bench.out / "distil" / f"{name}-{seed}", *shared, *words, f"seed={seed}")
        record = held(bench("eval", bench.out / "distil" / f"{name}-{seed}-eval", f"run={run}", "eval.report=false"))
        made = json.loads((run / "run.json").read_text(encoding="utf-8"))
        return made["parameters"], record["accuracy"]

    seeds = given.seeds
    teachers = bench.all([lambda s=s: one("teacher", s) for s in seeds])
    alone = bench.all([lambda s=s: one("alone", s, "backbone.filters=32") for s in seeds])
    taught = bench.all(
        [
            lambda s=s: one(
                *("taught", s, "backbone.filters=32", "reg=distill"),
                f"reg.distill.teacher={bench.out / 'distil' / f'teacher-{s}'}",
            )
            for s in seeds
        ]
    )
    row("net", "parameters", "test accuracy, %", "less the teacher's, points")
    row(*["---"] * 4)
    for name, found in (
        ("teacher, 64 filters", teachers),
        ("32 filters", alone),
        ("32 filters, `reg=distill`", taught),
    ):
        less = [a[1] - b[1] for a, b in zip(found, teachers, strict=True)]
        row(name, f"{found[0][0]:,}", percent([a for _, a in found]), "" if found is teachers else percent(less, "+"))


def ensemble(given: argparse.Namespace, bench: Bench) -> None:
    """Five nets on glyphs, one by one and as one."""
    home = bench.out / "ensemble"
    words = (f"train.steps={given.steps}", f"train.val_every={given.steps}")
    runs = bench.all([lambda s=s: bench("train", home / str(s), *words, f"seed={s}") for s in range(1, 6)])
    named = f"run=[{','.join(map(str, runs))}]"
    row("five nets as one", "accuracy, %", "members, %", "gain over the best, points")
    row(*["---"] * 4)
    for how in ("mean", "vote", "stacking"):
        record = held(bench("eval", home / f"eval-{how}", named, f"ensemble={how}", "eval.report=false"))
        members = [member["accuracy"] for member in record["members"]]
        best = max(record["members"], key=lambda member: member["accuracy"])
        low, high = 100 * min(members), 100 * max(members)
        half = 100 * record["ci95"]
        gain = f"{100 * best['difference']:+.2f} ± {100 * best['difference_ci95']:.2f}"
        row(f"`ensemble={how}`", f"{100 * record['accuracy']:.2f} ± {half:.2f}", f"{low:.2f} to {high:.2f}", gain)


TABLES = {"digits": digits, "pacs": pacs, "distil": distil, "ensemble": ensemble}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--root", type=Path, help="the folder of mnist/, usps/ and pacs/")
    parser.add_argument("--weights", type=Path, help="torchvision's file of MobileNetV2, IMAGENET1K_V1")
    parser.add_argument("--out", type=Path, default=Path("outputs/transfer"), help="where the runs go")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--targets", nargs="+", choices=DOMAINS, default=list(DOMAINS), help="of pacs")
    parser.add_argument("--steps", type=int, default=300, help="meta-steps of distil and ensemble")
    parser.add_argument("--jobs", type=int, default=2, help="commands side by side")
    given = parser.parse_args()
    if given.table != "ensemble" and given.root is None:
        parser.error(f"{given.table} needs --root")
    if given.table == "pacs" and given.weights is None:
        parser.error("pacs needs --weights")
    TABLES[given.table](given, Bench(given.out.absolute(), given.jobs))


if __name__ == "__main__":
    main()
