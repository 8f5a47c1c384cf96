import os
import signal
import subprocess
import sys
from threading import Thread

import pytest

from metalab.core.signals import deferred_signals, forwarded_to, warnings_survived


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_become_values_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with deferred_signals() as caught:
        os.kill(os.getpid(), number)
        assert caught == [number]
    assert signal.getsignal(number) is before


def test_another_thread_may_train_too():
    seen = []

    def work() -> None:
        with deferred_signals() as caught:
            seen.append(list(caught))

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[]]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_the_parent_had_ignored_stays_ignored(number):
    """nohup metalab train & was stopped when the terminal closed, a script's background job by Ctrl-C."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with deferred_signals() as caught:
            assert signal.getsignal(number) is signal.SIG_IGN
            os.kill(os.getpid(), number)
            assert caught == []
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_warning_waits_until_a_process_handles_it():
    """In a process of its own: another thread, as the tests' own processes have, would take the signal."""
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


HELD = """
import os, signal, subprocess, sys
from metalab.core.signals import let_warnings_come, warnings_held, warnings_survived

held = "import signal; print(signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
with warnings_held():
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.SIGUSR1 in signal.sigpending()
    assert subprocess.check_output([sys.executable, "-c", held], text=True) == "True\\n"
    with warnings_survived():
        let_warnings_come()
        assert signal.SIGUSR1 not in signal.sigpending()
assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
"""


def test_ctrl_c_after_a_warning_is_the_first_one():
    with deferred_signals() as caught:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGINT)
        assert caught == [signal.SIGUSR1, signal.SIGINT]


def test_a_warning_before_and_after_the_training_ends_nothing():
    before = signal.getsignal(signal.SIGUSR1)
    with warnings_survived():
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGUSR1) is before


@pytest.fixture
def requeued():
    """A scheduler's handler of SIGUSR2, and how often it was called."""
    called = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    yield called
    signal.signal(signal.SIGUSR2, before)


def test_a_handler_from_before_is_called_once_the_work_is_saved_and_between_trainings(requeued):
    with warnings_survived():
        with deferred_signals() as caught:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert (list(caught), requeued) == ([signal.SIGUSR2], [])
            caught.pass_on(signal.SIGUSR2)
            assert requeued == [signal.SIGUSR2]
            caught.pass_on(signal.SIGUSR1)  # which nobody had handled
        os.kill(os.getpid(), signal.SIGUSR2)
    assert requeued == [signal.SIGUSR2] * 2


CHILD = """
import signal, sys, time
def leave(number, frame):
    sys.exit(number)
for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):
    signal.signal(getattr(signal, name), leave)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("sent", "got"),
    [(signal.SIGUSR1, signal.SIGUSR1), (signal.SIGUSR2, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)],
)
def test_a_child_gets_what_comes_and_is_to_leave_where_the_job_is_requeued(requeued, sent, got):
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        with child, forwarded_to(child):
            os.kill(os.getpid(), sent)
            assert child.wait(60) == got
            assert requeued == []  # only when the child has ended
    finally:
        signal.signal(signal.SIGTERM, before)
    assert requeued == ([signal.SIGUSR2] if sent == signal.SIGUSR2 else [])
