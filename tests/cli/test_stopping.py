"""What reaches the jobs of a sweep that run side by side, and what is said of those that it ended."""

import os
import signal
import sys

import pytest

from metalab.cli import stopping, sweeps
from metalab.cli.job_end import explain
from metalab.cli.job_records import process


@pytest.fixture
def sent(monkeypatch, tmp_path) -> list[tuple[int, int]]:
    """Signals to a job that runs until one comes, and what is sent to it."""
    found: list[tuple[int, int]] = []
    job = sweeps.Job(str(tmp_path), 0, [], "running", **process(os.getppid()))
    monkeypatch.setattr(sweeps, "jobs", lambda: [] if any(n == signal.SIGTERM for _, n in found) else [job])
    monkeypatch.setattr(sweeps, "stop", lambda: None)
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    return found


def test_jobs_are_stopped_where_nobody_reads_any_more(sent, monkeypatch):
    class Closed:
        def write(self, text: str) -> None:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Closed())
    with pytest.raises(KeyboardInterrupt):
        stopping._stop(signal.SIGINT, None)
    assert sent == [(os.getppid(), signal.SIGTERM)]


def test_a_warning_reaches_the_jobs_and_the_sweep_goes_on(sent):
    before = signal.getsignal(signal.SIGUSR1)
    stopping.install("a.launcher")
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        stopping.uninstall()
    assert sent == [(os.getppid(), signal.SIGUSR1)]
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize(
    ("code", "command", "saved", "state", "message"),
    [
        (-9, "train", True, "failed", "killed by SIGKILL (out of memory?)"),
        (130, "train", True, "stopped", "stopped by SIGINT; it has saved, and resume goes on"),
        (130, "train", False, "stopped", "stopped by SIGINT"),
        (130, "eval", True, "stopped", "stopped by SIGINT"),
        (-15, "train", False, "stopped", "stopped by SIGTERM"),
        (138, "train", True, "stopped", "stopped by SIGUSR1; it has saved, and resume goes on"),
        (140, "train", False, "stopped", "stopped by SIGUSR2"),
        (-11, "train", True, "failed", "its process ended with SIGSEGV"),
        (3, "train", True, "failed", "its process ended with exit code 3"),
    ],
)
def test_an_exit_code_says_what_became_of_a_job(tmp_path, code, command, saved, state, message):
    if saved:
        (tmp_path / "last.pt").touch()
    assert explain(code, command, tmp_path) == {"state": state, "message": message}
