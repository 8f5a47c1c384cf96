"""Rows side by side: slots that each train one row after another, within one budget, until a signal."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any

WORKER = Path(__file__).with_name("reproduce_run.py")
LATE = 10.0  # seconds behind its time after which a row is killed
LEAST = 15.0  # seconds below which nothing is begun


@dataclass
class Job:
    """A row and seed that is to be trained or evaluated."""

    name: str
    weight: float  # expected minutes, of which only the proportions count
    spec: Callable[[float | None], Path]  # until when, in seconds of time.time() -> the file for reproduce_run.py
    log: Path  # of what it prints
    ended: Callable[[], str]  # writes its json, and says what there is
    after: "Job | None" = None  # whose best weights it goes on from, if that is still to do
    ready: Callable[[], bool] = lambda: True  # whether those are there
    done: threading.Event = field(default_factory=threading.Event)
    code: int | None = None  # exit code; None: not begun
    said: str = ""


def packed(weights: list[float], slots: int) -> list[list[int]]:
    """Return which of the weights each slot takes, in their order, so that the slots have about the same to do."""
    bins: list[list[int]] = [[] for _ in range(slots)]
    for index in sorted(range(len(weights)), key=lambda i: -weights[i]):
        min(bins, key=lambda taken: sum(weights[i] for i in taken)).append(index)
    return [sorted(taken) for taken in bins]


class Queue:
    """Runs jobs in slots; each slot shares the time that is left among its jobs by their weights."""

    def __init__(self, jobs: list[Job], slots: int, deadline: float, grace: float, worker: Path = WORKER) -> None:
        ordered = sorted(jobs, key=lambda job: job.after is not None)  # what others go on from comes first
        plan = packed([job.weight for job in ordered], slots)
        self.slots = [[ordered[i] for i in taken] for taken in plan]
        self.deadline, self.grace, self.worker = deadline, grace, worker  # seconds of time.time(); seconds; a script
        self.children: list[subprocess.Popen[bytes]] = []
        self.stopping = False
        self.lock = threading.RLock()

    def run(self) -> None:
        """Work until everything is done, the time is over or a signal came."""
        old = {number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        threads = [threading.Thread(target=self._work, args=(slot,), daemon=True) for slot in range(len(self.slots))]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.1)  # signals are handled here
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """Ask all trainings to save and end; the second time end everything."""
        with self.lock:
            for child in self.children:
                child.send_signal(signal.SIGKILL if self.stopping else signal.SIGTERM)
            self.stopping, self.deadline = True, min(self.deadline, time.time() + self.grace)
        print(
            f"{signal.Signals(number).name}: what is trained is saved, and evaluated within {self.grace:g} s",
            flush=True,
        )

    def _take(self, slot: int) -> tuple[Job, float] | None:
        """Return the slot's next job and its share of the slot's time; of another slot's last where it has none."""
        with self.lock:
            own = self.slots[slot]
            if not own:
                longest = max(self.slots, key=lambda waiting: sum(job.weight for job in waiting))
                if not longest:
                    return None
                own.append(longest.pop())
            share = own[0].weight / sum(job.weight for job in own)
            return own.pop(0), share

    def _work(self, slot: int) -> None:
        while (taken := self._take(slot)) is not None:
            job, share = taken
            try:
                if job.after is not None:
                    job.after.done.wait()
                self._one(job, share)
            except Exception as error:
                job.code, job.said = 1, f"{type(error).__name__}: {error}"
            finally:
                job.done.set()

    def _one(self, job: Job, share: float) -> None:
        left = self.deadline - time.time()
        if self.stopping or left < LEAST or not job.ready():
            return
        until = None if left == inf else time.time() + share * left
        spec = job.spec(until)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log, self.lock:
            if self.stopping:
                return
            child = subprocess.Popen(
                [sys.executable, str(self.worker), str(spec)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(len(self.slots)),
            )
            self.children.append(child)
        print(f"{job.name}: begun{'' if until is None else f', {share * left / 60:.1f} min'}", flush=True)
        job.code = self._waited(child, inf if until is None else until)
        job.said = job.ended()
        print(f"{job.name}: {job.said}", flush=True)

    def _waited(self, child: "subprocess.Popen[bytes]", until: float) -> int:
        """Return the exit code; 0 where it was ended because the time was over."""
        late = False
        while child.poll() is None:
            if time.time() > min(until + LATE, self.deadline + (LATE if self.stopping else 0.0)):
                child.kill()
                late = True
            time.sleep(0.05)
        with self.lock:
            self.children.remove(child)
        return 0 if late or (self.stopping and child.returncode < 0) else child.returncode


def environment(slots: int) -> dict[str, str]:
    """Return the environment of one of several trainings: its share of the processor, without spinning."""
    share = max(1, len(os.sched_getaffinity(0)) // slots) if hasattr(os, "sched_getaffinity") else 1
    own: dict[str, Any] = {"OMP_NUM_THREADS": share, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": 0}
    given = {name: os.environ.get(name) for name in own} if slots == 1 else {}
    own |= {name: value for name, value in given.items() if value is not None}
    return os.environ | {name: str(value) for name, value in own.items()}
