import os
import signal
from threading import Thread

from metalab.signals import collected


def test_signals_become_values_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with collected() as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_may_train_too():
    seen = []

    def work() -> None:
        with collected() as caught:
            seen.append(list(caught))

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[]]
