"""Time a meta-step: learn2learn as a user would write it, engine=learn2learn and engine=vectorized, side by side.

One process, the same weights and episodes, turn by turn, medians after a warm-up, full float32 without TF32; on a GPU
other precisions are rows of their own, and their speed is that against the loop by hand with TF32.

Writes bench.md and bench.csv; --table also what engine=auto goes by.
--evaluate times an evaluation of as many episodes in the place of a meta-step. --profile says instead which operations
take most of each meta-step's time.
"""

import argparse
import csv
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_cases import ALGORITHMS, CASES, FAST, LOOP, SMOKE, USER, USER_TF32, contestants, work
from bench_meters import amount, bandwidth, ceiling, clocked, peak, profiled
from torch import Tensor

from metalab.config.paths import typed
from metalab.core.allocator import keep_freed_memory
from metalab.engines.auto import TABLE, AutoEngine, Measurement, table
from metalab.engines.cuda_graph import EAGER
from metalab.engines.precision import tf32
from metalab.engines.vectorized import Vectorized
from metalab.tracking.provenance import processor

ASKED = ("engine.precision", "engine.graphs")  # what engine=auto takes only where the user says so
COLUMNS = ["case", "algo", "engine", "ms", "low", "high", "tasks_per_s", "peak_mb", "ceiling_share", "speed", "auto"]


def race(
    runs: dict[str, Callable[[], Tensor]], device: torch.device, repeats: int, warm: int
) -> dict[str, list[float]]:
    """Return the milliseconds of each repeat, the contestants taking turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        for _ in range(max(warm, EAGER + 1) if "graphs" in name else warm):  # until a graph is recorded
            run()
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(clocked(run, device))
    return times


def measured(given: argparse.Namespace, device: torch.device, top: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Race all cases; return a row for each contestant, and a line on what each meta-step has to do."""
    rows: list[dict[str, Any]] = []
    sizes: list[str] = []
    cases = SMOKE if given.smoke else {name: CASES[name] for name in given.case or CASES}
    precisions = ["tf32", "bf16"] if device.type == "cuda" else []
    for name, case in cases.items():
        for algo in given.algo or ALGORITHMS:
            runs = contestants(case, algo, device, precisions, given.evaluate, given.torch_convolutions)  # type: ignore[arg-type]
            if set(given.engine or []) - set(runs):
                raise SystemExit(f"--engine {given.engine}: this device races {', '.join(runs)}")
            runs = {n: run for n, run in runs.items() if n in (USER, USER_TF32) or n in (given.engine or runs)}
            operations, moved = (math.nan, math.nan) if given.uncounted else amount(runs[USER])
            sizes.append(f"{name} {algo}: {operations / 1e9:.3g} GFLOP, {moved / 1e9:.3g} GB")
            print(sizes[-1], flush=True)
            if given.profile:
                for engine, run in runs.items():
                    shares = [f"{operation} {100 * share:.0f} %" for operation, share in profiled(run, device)]
                    print(f"{name} {algo} {engine}: {', '.join(shares)}", flush=True)
                continue
            times = race(runs, device, given.repeats, given.warm)
            for engine, spent in times.items():
                middle = statistics.median(spent)
                low, _, high = statistics.quantiles(spent, n=4) if len(spent) > 1 else (middle,) * 3
                numbers = (middle, low, high, 1000 * case.tasks / middle, peak(runs[engine], device))
                share = operations / (middle / 1000) / top
                other = any(word in engine for word in ("tf32", "TF32", "bf16"))
                speed = statistics.median(times[USER_TF32 if other else USER]) / middle
                values = [name, algo, engine, *numbers, share, speed, ""]
                rows.append(dict(zip(COLUMNS, values, strict=True)))
                print(shown(rows[-1]), flush=True)
    return rows, sizes


def mark(rows: list[dict[str, Any]], device: torch.device, evaluating: bool) -> None:
    """Mark the engine that engine=auto takes in each case, by the table as it is now."""
    for row in rows:
        does = work({**CASES, **SMOKE}[row["case"]], row["algo"], device)
        taken = AutoEngine("float32").choose(replace(does, algo=None) if evaluating else does)
        name = "engine=vectorized" if isinstance(taken, Vectorized) else LOOP
        if isinstance(taken, Vectorized) and taken.chunk:
            name += f" engine.chunk={taken.chunk}"
        row["auto"] = "auto" if row["engine"] == name else ""


def shown(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    cells = [
        f"{v:.3g}" if isinstance(v, float) and v < 100 else f"{v:.0f}" if isinstance(v, float) else v
        for v in row.values()
    ]
    return "| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |"


def shipped(rows: list[dict[str, Any]], device: torch.device, old: list[Measurement]) -> str:
    """Return the table that engine=auto goes by, with these measurements in the place of the same ones before."""
    found = {row.work: (row.chunk, row.learn2learn, row.vectorized) for row in old}
    for row in rows:
        if row["engine"] == LOOP:
            alike = [r for r in rows if (r["case"], r["algo"]) == (row["case"], row["algo"])]
            best = min(
                (r for r in alike if r["engine"].startswith(FAST) and not any(a in r["engine"] for a in ASKED)),
                key=lambda r: r["ms"],
            )
            chunk = best["engine"].partition("engine.chunk=")[2]
            key = work({**CASES, **SMOKE}[row["case"]], row["algo"], device)
            found[key] = (int(chunk) if chunk else None, row["ms"], best["ms"])
    head = [
        "# python scripts/bench.py --table",
        "device,algo,size,tasks,images,steps,filters,chunk,learn2learn_ms,vectorized_ms",
    ]
    body = [
        f"{w.device},{w.algo},{w.size},{w.tasks},{w.images},{w.steps},{w.filters},{chunk or ''},{loop:.1f},{fast:.1f}"
        for w, (chunk, loop, fast) in found.items()
    ]
    return "\n".join([*head, *body]) + "\n"


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="one of the cases, may be repeated; all")
    parser.add_argument("--algo", action="append", choices=ALGORITHMS, help="may be repeated; all")
    parser.add_argument("--engine", action="append", help=f"beside the loop by hand, as {LOOP}; may be repeated; all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--repeats", type=int, default=20, help="that are counted")
    parser.add_argument("--warm", type=int, default=2, help="repeats before, that are not")
    parser.add_argument("--out", type=typed, default=Path("outputs/bench"), help="folder of bench.md and bench.csv")
    parser.add_argument(
        "--table", nargs="?", type=typed, const=TABLE, help="update the table of engine=auto, or this copy"
    )
    parser.add_argument("--evaluate", action="store_true", help="without an outer gradient, as metalab eval does")
    parser.add_argument("--profile", action="store_true", help="where the time goes, in the place of how much it is")
    parser.add_argument("--uncounted", action="store_true", help="leave out how many operations and bytes there are")
    parser.add_argument("--torch-convolutions", action="store_true", help="also race the engines with torch's own")
    parser.add_argument("--give-back", action="store_true", help="freed memory to the system, which metalab does not")
    parser.add_argument("--smoke", action="store_true", help="a tiny case, once: does it run?")
    given = parser.parse_args()
    if given.table and (given.evaluate or given.profile or given.give_back or given.torch_convolutions):
        extra = "--evaluate, --profile, --give-back and --torch-convolutions"
        parser.error(f"--table holds meta-steps as metalab takes them: leave out {extra}")
    if given.table and given.engine and not (LOOP in given.engine and any(e.startswith(FAST) for e in given.engine)):
        parser.error(f"--table compares the engines: give --engine {LOOP} and one of {FAST}, or leave --engine out")
    if given.smoke:
        given.repeats, given.warm = 1, 0
    return given


def main() -> None:
    """Run it: python scripts/bench.py [--smoke] [--case NAME] [--algo NAME] [--table]."""
    given = arguments()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    if not given.give_back:
        keep_freed_memory(device.type)  # for all of them
    with tf32(False):
        top = ceiling(device, given.smoke)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()}, {given.threads} threads"
    can = f"matmul {top / 1e9:.0f} GFLOP/s, copy {bandwidth(device, given.smoke) / 1e9:.1f} GB/s"
    head = f"{name}, torch {torch.__version__}, {can}, {given.repeats} repeats"
    print(head, flush=True)
    rows, sizes = measured(given, device, top)
    if given.profile:
        return
    if given.table:
        given.table.write_text(
            shipped(rows, device, table(given.table) if given.table.exists() else []), encoding="utf-8"
        )
    mark(rows, device, given.evaluate)
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "bench.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    lines = [head, "", *sizes, "", "| " + " | ".join(COLUMNS) + " |"]
    lines += ["|---" * len(COLUMNS) + "|", *map(shown, rows)]
    (given.out / "bench.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if sys.platform == "linux":
        import resource

        print(f"the process took {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most")
    print(f"wrote {given.out / 'bench.md'}" + (f" and {given.table}" if given.table else ""))


if __name__ == "__main__":
    main()
