"""SIGINT and SIGTERM as values, so that the work under way can be finished and saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any


@contextmanager
def collected() -> Iterator[list[signal.Signals]]:
    """Collect SIGINT and SIGTERM in a list instead of obeying them; a second SIGINT interrupts at once.

    Outside of the main thread, where Python sets no handlers, the list stays empty.
    """
    caught: list[signal.Signals] = []

    def handle(number: int, frame: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number))

    ours = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()
    old = {number: signal.signal(number, handle) for number in ours}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
