"""Signals as values, so that the work under way can be finished and saved."""

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

STOPS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has not all of these
WARNINGS = ("SIGUSR1", "SIGUSR2")  # of a cluster that will end the process before long


@contextmanager
def deferred_signals() -> Generator[list[signal.Signals]]:
    """Collect signals in a list instead of obeying them; a second SIGINT interrupts at once.

    What the parent process had ignored stays ignored, as SIGHUP below nohup or SIGINT in a script's background.
    Outside of the main thread, where Python sets no handlers, the list stays empty.
    """
    caught: list[signal.Signals] = []

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGINT and any(each.name in STOPS for each in caught):
            raise KeyboardInterrupt
        caught.append(signal.Signals(number))

    with _handled((*STOPS, *WARNINGS), handle):
        yield caught


@contextmanager
def warnings_survived() -> Generator[None]:
    """Let SIGUSR1 and SIGUSR2, which end a process, pass where there is nothing to save."""
    with _handled(WARNINGS, lambda number, frame: None):
        yield


@contextmanager
def _handled(names: tuple[str, ...], handle: Callable[[int, Any], None]) -> Generator[None]:
    ours = [getattr(signal, name) for name in names if hasattr(signal, name)]
    ours = [number for number in ours if signal.getsignal(number) is not signal.SIG_IGN]
    old = {number: signal.signal(number, handle) for number in ours} if current_thread() is main_thread() else {}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
