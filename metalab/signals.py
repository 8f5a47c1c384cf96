"""SIGINT, SIGTERM and SIGHUP as values, so that the work under way can be finished and saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any


@contextmanager
def collected() -> Iterator[list[signal.Signals]]:
    """Collect SIGINT, SIGTERM and SIGHUP in a list instead of obeying them; a second SIGINT interrupts at once.

    Outside of the main thread, where Python sets no handlers, the list stays empty.
    """
    caught: list[signal.Signals] = []

    def handle(number: int, frame: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number))

    names = ("SIGINT", "SIGTERM", "SIGHUP") if current_thread() is main_thread() else ()
    ours = [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has no SIGHUP
    old = {number: signal.signal(number, handle) for number in ours}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
