import os
import signal
from threading import Thread

import pytest

from metalab.core.signals import deferred_signals, warnings_survived


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
