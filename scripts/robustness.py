"""Train and attack every row of docs/robustness.md: python scripts/robustness.py --minutes 60, again until it is done.

Each row is a training that is resumed where it stopped, and an evaluation that is made once; both lie in --out. After
each row what is there is written to --doc, below its mark, and to a picture a method: the work can be cut anywhere.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from metalab import pictures

CURVE = (0, 8, 16, 26, 51, 77)  # 255ths
AT = 51  # what is trained on and what the table is of
NET = "backbone=conv4_strided task.query=5 task.train_query=5 train.bn=support eval.bn=support"
METHODS = {
    "protonet": f"algo=protonet {NET} task.train_way=10",
    "maml": f"algo=maml {NET} train.meta_batch=4 optim.lr=0.003",
}
TRAININGS = {
    "natural": "",
    "l2": "reg=l2",
    "dropout": "reg=dropout",
    "noise": f"reg=noise reg.noise.eps={AT}",
    "fgsm": f"reg=adv_fgsm reg.adv_fgsm.eps={AT} reg.adv_fgsm.random_start=true",
    "aq": f"reg=adv_pgd reg.adv_pgd.eps={AT} reg.adv_pgd.step=null",
    "adml": f"reg=adv_fgsm reg.adv_fgsm.eps={AT} reg.adv_fgsm.on=crossed",
    "rmaml": f"reg=adv_fgsm reg.adv_fgsm.eps={AT} reg.adv_fgsm.random_start=true reg.adv_fgsm.how=add "
    "reg.adv_fgsm.weight=0.2",
}
WARM = ("fgsm", "aq", "adml", "rmaml")  # go on from natural's weights: from random ones AQ hardly learns at this size
MARK = "<!-- what follows is made by scripts/robustness.py -->"  # what stands above it is kept
SMOKE = "device=cpu backbone.filters=4 task.query=2 train.val_episodes=2 eval.batch=2"


class Over(Exception):
    """The minutes are over."""


def options() -> argparse.Namespace:
    rows = [f"{m}/{t}" for m in METHODS for t in TRAININGS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/robustness"), help="where runs and results lie")
    parser.add_argument("--doc", type=Path, help="the table; default: robustness.md in --out")
    parser.add_argument("--data", default="data=glyphs", help="overrides that choose the data")
    parser.add_argument("--steps", type=int, default=1500, help="meta-steps of each training")
    parser.add_argument("--episodes", type=int, default=600, help="test episodes of each evaluation")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop, and save, after so many")
    parser.add_argument(
        "--only", nargs="+", choices=rows, metavar="ROW", default=rows, help=f"some of {' '.join(rows)}"
    )
    parser.add_argument("--smoke", action="store_true", help="everything small: does it run")
    given = parser.parse_args()
    given.doc = given.doc or given.out / "robustness.md"
    return given


def main() -> None:
    given = options()
    end = time.monotonic() + 60 * given.minutes
    try:
        for row in given.only:
            make(row, given, end)
            write(given)
    except Over:
        write(given)
        print(f"the minutes are over: the same command goes on with {row}")


def make(row: str, given: argparse.Namespace, end: float) -> None:
    """Train and evaluate a row, as far as that is still to do."""
    folder = given.out / row
    if (folder / "eval/eval.json").exists():
        return
    if (folder / "last.pt").exists():
        metalab(["train", f"resume={folder}", f"train.steps={given.steps}"], end)
    else:
        metalab(["train", *train_words(row, given), f"hydra.run.dir={folder}"], end)
    attack = ["attack=pgd", f"eval.eps=[{','.join(map(str, CURVE))}]", f"eval.episodes={given.episodes}"]
    small = ["eval.batch=2", "attack.pgd.steps=2"] if given.smoke else []
    metalab(["eval", f"run={folder}", *attack, *small, f"hydra.run.dir={folder / 'eval'}"], end)


def train_words(row: str, given: argparse.Namespace) -> list[str]:
    """Return the overrides of a row's training, as the table prints them."""
    method, training = row.split("/")
    small = SMOKE.split() if given.smoke else []
    small += [f"train.init={given.out / method / 'natural'}"] if training in WARM else []
    steps = [f"train.steps={given.steps}", f"train.val_every={max(given.steps // 10, 1)}"]
    return [*given.data.split(), *METHODS[method].split(), *TRAININGS[training].split(), *steps, *small]


def metalab(words: list[str], end: float) -> None:
    """Run a command; when the time is over, ask it to save and end, and raise Over."""
    left = end - time.monotonic()
    if left <= 0:
        raise Over
    print("metalab", *words, flush=True)
    child = subprocess.Popen([sys.executable, "-c", "from metalab.cli import main; main()", *words])
    try:
        code = child.wait(None if left == float("inf") else left)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as why:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise Over from why
    if code:
        sys.exit(f"this ended with exit code {code}: metalab {' '.join(words)}")


def results(given: argparse.Namespace) -> Iterator[tuple[str, dict, dict]]:
    """Yield each finished row, its clean record and its attacked ones by eps."""
    for row in (f"{m}/{t}" for m in METHODS for t in TRAININGS):
        path = given.out / row / "eval/eval.json"
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            yield row, record, {attack["eps"]: attack for attack in record["attacks"]}


def percent(record: dict) -> str:
    return f"{100 * record['accuracy']:.1f} ± {100 * (record['ci95'] or 0):.1f}"


def write(given: argparse.Namespace) -> None:
    """Write the table, what it says of the three aims, and a picture a method."""
    found = list(results(given))
    head = (
        f"| method | training | steps | bn | clean | {' | '.join(f'PGD {eps}/255' for eps in CURVE[1:])} | zero gr. |"
    )
    lines = [head, "|---" * (6 + len(CURVE[1:])) + "|"]
    for row, clean, attacked in found:
        cells = [*row.split("/"), str(clean["step"]), clean["bn"], percent(clean)]
        cells += [percent(attacked[eps]) for eps in CURVE[1:]]
        lines.append(f"| {' | '.join(cells)} | {100 * (attacked[AT]['zero_gradients'] or 0):.2g} % |")
    missing = [row for row in (f"{m}/{t}" for m in METHODS for t in TRAININGS) if row not in {r for r, *_ in found}]
    lines += ["", *aims({row: (clean, attacked) for row, clean, attacked in found})]
    lines += ["", f"Not run: {', '.join(missing)}."] if missing else []
    lines += ["", "Each row's training:", "", "```bash"]
    lines += [f"metalab train {' '.join(train_words(row, given))}" for row, *_ in found]
    shown = f"eval.eps=[{','.join(map(str, CURVE))}] eval.episodes={given.episodes}"
    lines += ["```", "", f"and its evaluation: `metalab eval run=RUN attack=pgd {shown}`.", ""]
    for method in METHODS:
        curves = {
            row.split("/")[1]: [
                (eps, (attacked[eps] if eps else clean)["accuracy"], (attacked[eps] if eps else clean)["ci95"] or 0.0)
                for eps in CURVE
            ]
            for row, clean, attacked in found
            if row.startswith(method)
        }
        if curves:
            picture = given.doc.with_name(f"{given.doc.stem}_{method}.png")
            title = f"{method}, PGD-20 on the queries, trained at {AT}/255"
            pictures.save(pictures.robustness_curve(curves, "linf", title, found[0][1]["way"]), picture)
            lines.append(f"![{method}]({picture.name})")
    above = given.doc.read_text(encoding="utf-8").partition(MARK)[0] if given.doc.exists() else ""
    given.doc.write_text("\n".join([above + MARK, "", *lines]) + "\n", encoding="utf-8")


def aims(found: dict[str, tuple[dict, dict]]) -> list[str]:
    """Say whether, at 51/255, natural is at most 30 %, AQ 30 points above it, and AQ's clean at most 5 points lower."""
    said = []
    for method in METHODS:
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


if __name__ == "__main__":
    main()
