"""Weak scaling: the time of a meta-step with 1 and 2 processes on this machine's CPU, and a model of more.

Each process has one thread and as many tasks as the one alone, so that the ideal is a ratio of 1. What the machine
itself takes from that is seen in two trainings side by side that have nothing to do with each other: a step of two
processes waits for the slower one. Beside the meta-steps the script times the all_reduce of small and large messages
between the two processes, from which it has the delay of a message and the rate of the link; --delay and --rate put
those of other machines in their place, --step the time of their meta-step. With them a ring (Patarasuk & Yuan 2009) is
computed for 2 to 64 processes:

    step(N) = step(1) + 2 (N - 1) delay + 2 (N - 1) / N bytes / rate

It leaves out the waiting for the slowest process, and that messages may go on while gradients are computed.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir

from metalab.config.experiment import read_config
from metalab.config.paths import conf_dir
from metalab.distributed import group
from metalab.distributed.agreement import agreed
from metalab.distributed.processes import processes, several, share
from metalab.engines.shared import shared
from metalab.tracking.provenance import processor
from metalab.training.setup import build_training_setup
from metalab.training.train import _init_or_resume

PAYS = 1.5  # times the tasks a second that twice the processes have to bring
SMALL, LARGE = 4, 4 * 2**22  # bytes of the messages by which delay and rate are found


class Round(NamedTuple):
    """What was measured in turn, in milliseconds a meta-step."""

    one: dict[str, Any]  # of a process alone
    apart: list[float]  # of two trainings side by side, the faster one first
    two: dict[str, Any]  # of two processes of one training


def main() -> None:
    """Measure, model and print; with RANK in the environment be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", default=[], help="overrides of metalab train (algo=maml)")
    parser.add_argument("--tasks", type=int, default=4, help="tasks a process (4)")
    parser.add_argument("--steps", type=int, default=30, help="meta-steps that are timed, after 5 that are not (30)")
    parser.add_argument("--rounds", type=int, default=3, help="how often 1 and 2 processes take turns (3)")
    parser.add_argument("--step", type=float, help="ms of a meta-step of one process (as measured)")
    parser.add_argument("--delay", type=float, help="microseconds until a message begins to arrive (as measured)")
    parser.add_argument("--rate", type=float, help="GB/s of the link between two neighbours (as measured)")
    parser.add_argument("--smoke", action="store_true", help="a few steps of a tiny net, to see that it runs")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return worker(given)
    if given.smoke:
        given.steps, given.rounds, given.tasks = 2, 1, 1
    report(given, [Round(launched(given, 1), apart(given), launched(given, 2)) for _ in range(given.rounds)])


def worker(given: argparse.Namespace) -> None:
    """Time meta-steps and messages in this process, and print the medians as JSON in rank 0."""
    torch.set_num_threads(1)
    with group.joined(torch.device("cpu")) if several() else nullcontext():
        step, size = meta_step(given)
        found = {"step": median(step, given.steps), "bytes": size, "messages": {}}
        if several():
            for count in (SMALL, size, LARGE):
                message = torch.zeros(max(1, count // 4))
                found["messages"][str(count)] = median(lambda message=message: group.add(message), given.steps)
    if processes().rank == 0:
        print(json.dumps(found))


def meta_step(given: argparse.Namespace) -> tuple[Callable[[], object], int]:
    """Return what takes a meta-step of a training as metalab train does, and the bytes of its gradients."""
    tasks = given.tasks * processes().count
    words = ["algo=maml", "device=cpu", f"train.meta_batch={tasks}", *given.words]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = read_config(compose("train", words))
    r = build_training_setup(config)
    net, outer, *_ = _init_or_resume(r.config, r, None)
    engine, episodes = shared(r.stepping, tasks), r.training("train", tasks, share(tasks))
    objective, progress, done = r.objective(), torch.zeros(()), 0

    def step() -> None:
        nonlocal done
        net.train()
        net.zero_grad(set_to_none=True)
        engine.grad(objective, net, episodes(done), progress)
        outer.step(done)
        agreed(None)
        done += 1

    return step, sum(4 * p.numel() for p in net.parameters() if p.requires_grad)


def median(run: Callable[[], object], repeats: int) -> float:
    """Return the median of so many runs in milliseconds, after 5 that are not counted."""
    times = []
    for _ in range(5 + repeats):
        began = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[5:])


def apart(given: argparse.Namespace) -> list[float]:
    """Return the time of a meta-step of each of two trainings that run side by side, the faster one first."""
    with ThreadPoolExecutor(2) as pool:
        return sorted(found["step"] for found in pool.map(lambda _: launched(given, 1), range(2)))


def launched(given: argparse.Namespace, count: int) -> dict[str, Any]:
    """Run so many workers as one training; return what rank 0 prints."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    tiny = ["backbone.filters=4"] if given.smoke else []
    words = [sys.executable, str(Path(__file__)), "--worker", f"--tasks={given.tasks}", f"--steps={given.steps}"]
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    each = [
        subprocess.Popen(
            [*words, *given.words, *tiny], env={**os.environ, **own, "RANK": str(rank)}, stdout=subprocess.PIPE
        )
        for rank in range(count)
    ]
    outputs = [process.communicate()[0] for process in each]
    if any(process.returncode for process in each):
        sys.exit("weak_scaling.py: a process failed, see above")
    return json.loads(outputs[0].splitlines()[-1])


def report(given: argparse.Namespace, rounds: list[Round]) -> None:
    """Print what was measured, and the model of more processes."""
    one = statistics.median(each.one["step"] for each in rounds)
    two = statistics.median(each.two["step"] for each in rounds)
    faster, slower = (statistics.median(each.apart[i] for each in rounds) for i in (0, 1))
    size = rounds[0].two["bytes"]
    small, own, large = (
        statistics.median(each.two["messages"][str(count)] for each in rounds) for count in (SMALL, size, LARGE)
    )
    print(f"{processor()}; {given.tasks} tasks a process, one thread each; medians of {len(rounds)} x {given.steps}")
    print(f"1 process   {one:9.2f} ms a meta-step")
    print(f"2 trainings {slower:9.2f} ms a meta-step of the slower, {faster:.2f} of the faster, side by side")
    print(f"2 processes {two:9.2f} ms a meta-step, {two / one:.3f} times that of one (1 is the ideal),")
    print(f"            {two / slower:.3f} times that of the slower training")
    print(f"all_reduce of {size:,} bytes of gradients between 2 processes: {own:.3f} ms")
    delay = 1e-6 * given.delay if given.delay else small / 2000
    rate = 1e9 * given.rate if given.rate else (LARGE - SMALL) / max(1e-9, (large - small) / 1000)
    step = (given.step or one) / 1000
    print(f"model: {1000 * step:.2f} ms a step, {1e6 * delay:.1f} us a message, {rate / 1e9:.2f} GB/s, {size:,} bytes")
    print("processes  ms a step  efficiency  tasks a second against one")
    gains = {}
    for count in (1, 2, 4, 8, 16, 32, 64):
        whole = step + 2 * (count - 1) * delay + 2 * (count - 1) / count * size / rate
        gains[count] = count * step / whole
        print(f"{count:9}  {1000 * whole:9.2f}  {step / whole:9.1%}  {gains[count]:8.2f}")
    ends = next((count for count in gains if count > 1 and gains[count] < PAYS * gains[count // 2]), None)
    if ends is None:
        print(f"each doubling up to 64 brings {PAYS} times the tasks a second or more")
    else:
        print(f"it stops paying at {ends}: they have less than {PAYS} times the tasks a second of {ends // 2}")


if __name__ == "__main__":
    main()
