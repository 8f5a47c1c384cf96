"""Make the tables of docs/results.md and docs/robustness.md: train, evaluate and collect every row.

python scripts/reproduce.py --root DATA --minutes 60 --jobs 6     all rows of reproduce.yaml, side by side, in an hour
python scripts/reproduce.py --root DATA --table omniglot          those of one table, each to its end
python scripts/reproduce.py --root DATA --only maml protonet_5shot
python scripts/reproduce.py --tables                              train nothing, write the tables from the jsons

DATA holds omniglot/, miniimagenet/, cifar100/ as metalab reads them. A run lies in --out/TABLE/ROW/seedS: where it was
begun it is resumed, a finished row is not trained again, also where only its json is here. Each row and seed leaves
--results/TABLE/ROW.seedS.json, and the tables are made of these alone, wherever and whenever they were measured.
SIGTERM or Ctrl-C: trainings save, what there is is evaluated and the jsons are written.
"""

import argparse
import json
import shlex
import shutil
import sys
import time
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import reproduce_record as records
import reproduce_tables
from reproduce_queue import Job, Queue
from reproduce_rows import ROWS, Mistake, Row, chosen, data_root, eval_words, load, prepare_words, train_words

HOME = Path(__file__).resolve().parents[1] / "docs"
STARTING = 0.3  # minutes of a row that are no training
MARGIN = 3.0  # seconds at the end of the budget, for what is written


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="+", metavar="TABLE", help="rows of these tables; all")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows, as NAME or TABLE/NAME; all")
    parser.add_argument("--minutes", type=float, default=inf, help="for everything; trainings are cut to it")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--seeds", type=int, default=1, help="of each row, from 0, where the row wants as many; 1")
    parser.add_argument("--root", nargs="+", metavar="DATA", help="or omniglot=FOLDER ...; else $METALAB_SHARED_DATA")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; else metalab's own choice")
    parser.add_argument("--extra", default="", help="further settings of every training, as one word in quotes")
    parser.add_argument("--slower", type=float, default=1.0, help="than one H100, for the time kept for evaluations")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds after a signal, to save and evaluate")
    parser.add_argument("--smoke", action="store_true", help="two steps a row, on glyphs where there is no --root")
    parser.add_argument("--commit", help="of the code, where it is no checkout that says it")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the rows, as reproduce.yaml has them")
    parser.add_argument("--tables", action="store_true", help="write the tables from the jsons, and end")
    parser.add_argument("--out", type=Path, default=None, help="of the runs; outputs/reproduce")
    parser.add_argument("--results", type=Path, default=None, help="of the jsons; docs/results")
    parser.add_argument("--docs", type=Path, default=None, help="of the documents; docs")
    given = parser.parse_args(argv)
    given.out = given.out or Path("outputs/smoke" if given.smoke else "outputs/reproduce")
    given.results = given.results or (given.out / "results" if given.smoke else HOME / "results")
    given.docs = given.docs or (given.out / "docs" if given.smoke else HOME)
    if given.jobs < 1 or given.seeds < 1 or not given.minutes > 0:
        parser.error("--jobs, --seeds and --minutes are above 0")
    if given.smoke and given.results.resolve() == HOME / "results":
        parser.error("--smoke measures nothing: give it --results of its own, or leave that out")
    return given


def asked(rows: list[Row], given: argparse.Namespace) -> list[tuple[Row, int]]:
    """Return the rows and seeds that are still to do, seed 0 of all first, with those that others go on from."""
    every = {row.full: row for row in rows}
    wanted: list[tuple[Row, int]] = []
    for seed in range(given.seeds):
        for row in chosen(rows, given.table, given.only):
            if seed >= row.seeds or records.finished(records.read(records.path_of(given.results, row, seed)), row):
                continue
            if given.smoke and row.untrained:
                print(f"{row.full} is left out of a smoke: it needs weights that a library fetches")
                continue
            start = every.get(f"{row.table}/{row.init}")
            if start is not None and (start, seed) not in wanted and not _trained(start, seed, given):
                wanted.append((start, seed))
            wanted += [(row, seed)] if (row, seed) not in wanted else []
    return wanted


def _trained(row: Row, seed: int, given: argparse.Namespace) -> bool:
    """Whether the weights that others go on from are here, of a whole training."""
    found = records.collected(row, seed, records.folder_of(given.out, row, seed))
    return found is not None and found["steps"] >= found["planned"]


def job(row: Row, seed: int, given: argparse.Namespace, table: dict[str, Any], start: Row | None) -> Job:
    """Return what trains and evaluates a row, goes on from the start's weights if it has one, and writes its json."""
    root = data_root(given.root, row.root if row.data else table["root"])
    run = records.folder_of(given.out, row, seed)
    device = [f"device={given.device}"] if given.device else []
    extra = shlex.split(given.extra)
    train = None if row.untrained else [*train_words(row, seed, root, given.smoke), *device, *extra]
    if train is not None and start is not None:
        train.append(f"train.init={records.folder_of(given.out, start, seed)}")
    evals = [
        {
            "words": [
                *eval_words(row, number, root, given.smoke),
                *device,
                *([f"seed={seed}"] if row.untrained else []),
            ],
            "out": str(records.eval_folder(run, key)),
            "seconds": given.slower * number.seconds,
        }
        for key, number in row.evaluations.items()
    ]
    resume = [*([f"data.root={root}"] if root else []), *device]
    held = {"folder": str(run), "train": train, "resume": resume, "evals": evals, "grace": 0.8 * given.grace}
    held |= {"data": prepare_words(row, row.data or table["data"], root, given.smoke), "slower": given.slower}
    held["device"] = given.device

    def spec(until: float | None) -> Path:
        path = run.with_name(f"{run.name}.spec.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(held | {"until": until}, indent=1), encoding="utf-8")
        return path

    made = records.collected(row, seed, run)
    left = 1.0 if made is None or row.untrained else max(0.0, 1 - made["steps"] / made["planned"])
    weight = left * row.minutes + STARTING + sum(number.seconds for number in row.evaluations.values()) / 60
    log, ended = run.with_name(f"{run.name}.log"), partial(_ended, row, seed, run, given)
    found = Job(f"{row.full} seed {seed}", weight, spec, log, ended)
    if start is not None:
        found.ready = partial(_trained, start, seed, given)
    return found


def _ended(row: Row, seed: int, run: Path, given: argparse.Namespace) -> str:
    """Write a row's json, and say what it holds."""
    found = records.collected(row, seed, run, given.commit)
    if found is None:
        return "nothing was trained"
    of = "" if row.untrained else f"{found['steps']} of {found['planned']} steps, "
    said = f"{of}{found['seconds'] / 60:.1f} min"
    if not records.write(records.path_of(given.results, row, seed), found):
        return f"{said}; its json, of a longer training, is kept"
    return f"{said}; " + ("; ".join(reproduce_tables.told(row, found)) or "not evaluated")


def worked(jobs: list[Job], given: argparse.Namespace, began: float) -> int:
    """Run the jobs, and say what became of each; the exit code."""
    queue = Queue(jobs, min(given.jobs, len(jobs)), began + 60 * given.minutes - MARGIN, given.grace)
    queue.run()
    waiting = [job.name for job in jobs if job.code is None]
    if waiting:
        why = "no time was left, or what they go on from is not at its end"
        print(f"not begun, as {why}: {', '.join(waiting)}; the same command goes on")
    failed = [job for job in jobs if job.code]
    for each in failed:
        last = each.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:] if each.log.is_file() else []
        print("\n".join([f"\n{each.name} failed (exit code {each.code}; {each.log}): {each.said}", *last]))
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
    """Train, evaluate and write the jsons, or write the tables; the exit code."""
    began = time.time()
    given = arguments(argv)
    try:
        tables, rows = load(given.rows)
        wrong = set(given.table or ()) - set(tables)
        if wrong:
            raise Mistake(f"--table {' '.join(sorted(wrong))}: there are {', '.join(tables)}")
        if given.tables:
            return reproduce_tables.write(tables, rows, given.results, given.docs)
        every = {row.full: row for row in rows}
        made: dict[tuple[str, int], Job] = {}
        for row, seed in asked(rows, given):
            start = every.get(f"{row.table}/{row.init}")
            made[row.full, seed] = job(row, seed, given, tables[row.table], start)
            made[row.full, seed].after = made.get((start.full, seed)) if start else None
        if not made:
            print("everything that is asked for is finished; python scripts/reproduce.py --tables writes the tables")
            return 0
        code = worked(list(made.values()), given, began)
        if given.smoke:
            shutil.copytree(HOME, given.docs, ignore=shutil.ignore_patterns("results"), dirs_exist_ok=True)
            reproduce_tables.write(tables, rows, given.results, given.docs)
        return code
    except Mistake as error:
        sys.exit(f"reproduce: {error}")


if __name__ == "__main__":
    sys.exit(main())
