import os
import signal
from threading import Thread

import pytest

from metalab.signals import collected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_become_values_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with collected() as caught:
        os.kill(os.getpid(), number)
        assert caught == [number]
    assert signal.getsignal(number) is before


def test_another_thread_may_train_too():
    seen = []

    def work() -> None:
        with collected() as caught:
            seen.append(list(caught))

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[]]
