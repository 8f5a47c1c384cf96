"""Ctrl-C on a sweep whose jobs run side by side: each saves and leaves, then the launcher is interrupted.

joblib kills its workers with all that is below them as soon as it is interrupted, before a training has saved. The
warning of a cluster, SIGUSR1 or SIGUSR2, is passed on to the jobs, which save and go on, or leave.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from socket import gethostname
from threading import current_thread, main_thread
from typing import Any

from metalab.cli import sweeps
from metalab.core.signals import STOPS, WARNINGS

_before: dict[int, Any] = {}


def install(launcher: str) -> None:
    """Have SIGINT, SIGTERM and SIGHUP end the jobs of this command's sweep first, and warnings reach them.

    It holds until `uninstall`.

    Args:
        launcher: hydra.launcher._target_. What Slurm holds goes on without this process: scancel ends that.
    """
    if launcher == sweeps.IN_ORDER or "slurm" in launcher.lower() or current_thread() is not main_thread():
        return
    for names, handler in ((STOPS, _stop), (WARNINGS, _warn)):
        for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                _before[number] = signal.signal(number, handler)


def uninstall() -> None:
    """Take the handlers away."""
    while _before:
        number, handler = _before.popitem()
        signal.signal(number, handler)


def _stop(number: int, frame: Any) -> None:
    uninstall()  # a second Ctrl-C interrupts at once
    sweeps.stop()
    told: set[int] = set()
    while running := _running():
        new = running - told
        _signal(new, signal.SIGTERM)
        if not told:
            with suppress(OSError):  # a terminal that is closed, or a `tee` that Ctrl-C has ended, too
                sys.stderr.write(f"metalab: {len(running)} jobs save and leave; Ctrl-C again does not wait for them\n")
        told |= new
        time.sleep(0.05)
    _await_records()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _warn(number: int, frame: Any) -> None:
    _signal(_running(), number)


def _running() -> set[int]:
    """Return the processes of this command's jobs that run on this machine."""
    return {job.pid for job in sweeps.jobs() if job.alive_here and job.pid is not None}


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _await_records(seconds: float = 2) -> None:
    """Let the workers write down what became of their jobs, which they do as soon as the processes have ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(job.state == "running" and job.host == gethostname() for job in sweeps.jobs()):
        time.sleep(0.05)
