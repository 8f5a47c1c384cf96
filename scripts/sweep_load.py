"""A sweep of many tiny trainings under joblib, some of whose processes are killed at random: nothing may be lost.

python scripts/sweep_load.py --jobs 200 --side 2 --killed 0.05

Kills that share of the jobs by SIGKILL at random moments, looks that all others finished and that what the sweep said
at its end is right, has `resume=` finish the killed ones, and prints the counts. Exit code 1 where one is wrong.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from metalab.cli import sweeps
from metalab.tracking import provenance

TINY = ("data=glyphs", "device=cpu", "backbone.filters=4", "task.query=2", "train.steps=20", "train.val_every=5")
TINY += ("train.val_episodes=2", "hydra.sweep.dir=swept")


def start(folder: Path, side: int, *words: str) -> "subprocess.Popen[str]":
    launcher = ("hydra/launcher=joblib", f"hydra.launcher.n_jobs={side}")
    command = [sys.executable, "-m", "metalab", "train", *words, *launcher]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_some(sweep: "subprocess.Popen[str]", folder: Path, jobs: int, count: int, chance: random.Random) -> set[int]:
    """Kill the processes of so many jobs, each a random time after it began; return their numbers.

    A job that ends before its time lives, and a later one takes its place.
    """
    killed, seen, due = set[int](), set[int](), dict[int, float]()
    while sweep.poll() is None:
        for number in range(jobs):
            job = sweeps.read_job(folder / "swept" / str(number))
            if job is None or job.state != "running" or job.pid is None:
                due.pop(number, None)
                continue
            if number not in seen:
                seen.add(number)
                left = count - len(killed) - len(due)
                if left > 0 and chance.random() < left / max(1, jobs - number):
                    due[number] = time.monotonic() + chance.uniform(0, 4)
            elif number in due and time.monotonic() >= due[number]:
                os.kill(job.pid, signal.SIGKILL)
                killed.add(number)
                del due[number]
        time.sleep(0.02)
    return killed


def states(folder: Path, jobs: int) -> dict[str, set[int]]:
    """Return the numbers of the jobs by what they came to."""
    found: dict[str, set[int]] = {}
    for number in range(jobs):
        run = folder / "swept" / str(number)
        job = sweeps.read_job(run)
        state = "lost" if job is None else job.state
        if state == "done" and not provenance.read(run).get("finished"):
            state = "done, but not finished"
        found.setdefault(state, set()).add(number)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--side", type=int, default=2, help="jobs side by side")
    parser.add_argument("--killed", type=float, default=0.05, help="the share of the jobs that is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    count = max(1, round(given.jobs * given.killed))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep = start(folder, given.side, "-m", *TINY, f"seed=range({given.jobs})")
        killed = kill_some(sweep, folder, given.jobs, count, random.Random(given.seed))
        said = sweep.communicate()[1]
        first = states(folder, given.jobs)
        told = re.search(r"metalab: (\d+) of the sweep's jobs failed", said)
        again = start(folder, given.side, "resume=swept")
        rest = again.communicate()[1]
        last = states(folder, given.jobs)
    print(f"jobs {given.jobs}, killed {len(killed)}, told as failed {told[1] if told else 0}")
    print("after the sweep:", {state: len(numbers) for state, numbers in first.items()}, "exit code", sweep.returncode)
    print("after resume=: ", {state: len(numbers) for state, numbers in last.items()}, "exit code", again.returncode)
    right = (
        killed
        and first.get("failed") == killed
        and len(first.get("done", ())) == given.jobs - len(killed)
        and told is not None
        and int(told[1]) == len(killed)
        and sweep.returncode == 1
        and last == {"done": set(range(given.jobs))}
        and again.returncode == 0
    )
    if not right:
        sys.exit(f"something is wrong\n{said}\n{rest}")


if __name__ == "__main__":
    main()
