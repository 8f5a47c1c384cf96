"""Signals as values, so that the work under way can be finished and saved."""

import signal
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

STOPS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has not all of these
WARNINGS = ("SIGUSR1", "SIGUSR2")  # of a cluster that will end the process before long


class Caught(list[signal.Signals]):
    """Signals that have come, and what handled them before."""

    def __init__(self) -> None:
        super().__init__()
        self.earlier: dict[int, Any] = {}

    def pass_on(self, number: signal.Signals) -> None:
        """Call the handler that a signal had before, as a scheduler's that requeues the job; Python's own stay out."""
        _call(self.earlier.get(number), number)


@contextmanager
def deferred_signals() -> Generator[Caught]:
    """Collect signals in a list instead of obeying them; a second SIGINT interrupts at once.

    What the parent process had ignored stays ignored, as SIGHUP below nohup or SIGINT in a script's background.
    Outside of the main thread, where Python sets no handlers, the list stays empty.
    """
    caught = Caught()

    def handle(number: int, frame: Any) -> None:
        if number == signal.SIGINT and any(each.name in STOPS for each in caught):
            raise KeyboardInterrupt
        caught.append(signal.Signals(number))

    with _handled((*STOPS, *WARNINGS), handle) as caught.earlier:
        yield caught


@contextmanager
def warnings_held() -> Generator[None]:
    """Hold SIGUSR1 and SIGUSR2 back, and from a process that begins meanwhile until it lets them come."""
    _mask("SIG_BLOCK")
    try:
        yield
    finally:
        let_warnings_come()


def let_warnings_come() -> None:
    """End what `warnings_held` of this process, or of that which began it, holds back."""
    _mask("SIG_UNBLOCK")


@contextmanager
def warnings_survived() -> Generator[None]:
    """Let SIGUSR1 and SIGUSR2, which end a process, pass where there is nothing to save; a handler from before runs."""
    earlier: dict[int, Any] = {}
    with _handled(WARNINGS, lambda number, frame: _call(earlier.get(number), number)) as found:
        earlier |= found
        yield


@contextmanager
def forwarded_to(child: "subprocess.Popen[Any]") -> Generator[None]:
    """Have a child process obey the signals that this one gets, then, as the child has ended, the handlers from before.

    A warning goes on as it came, and the child saves. Where it has a handler from before, as submitit's, which requeues
    the job and ends this process, and for what stops a process, the child is to save and leave: it gets SIGTERM.
    """
    caught = Caught()

    def handle(number: int, frame: Any) -> None:
        again = number == signal.SIGINT and number in caught
        caught.append(signal.Signals(number))
        ends = signal.Signals(number).name in STOPS or callable(caught.earlier.get(number))
        child.send_signal(number if again or not ends else signal.SIGTERM)

    with _handled((*STOPS, *WARNINGS), handle) as caught.earlier:
        yield
    for each in dict.fromkeys(caught):
        caught.pass_on(each)


@contextmanager
def _handled(names: tuple[str, ...], handle: Callable[[int, Any], None]) -> Generator[dict[int, Any]]:
    """Handle signals meanwhile; give what handled them before."""
    ours = [getattr(signal, name) for name in names if hasattr(signal, name)]
    ours = [number for number in ours if signal.getsignal(number) is not signal.SIG_IGN]
    old: dict[int, Any] = {}
    try:
        if current_thread() is main_thread():
            old |= {number: signal.getsignal(number) for number in ours}
            for number in ours:
                signal.signal(number, handle)
        yield old
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _call(handler: Any, number: int) -> None:
    if callable(handler):  # SIG_DFL and SIG_IGN are numbers
        handler(number, None)


def _mask(how: str) -> None:
    """Hold the warnings back from this thread and the processes that it begins, or let them come."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows, which has no warnings
        signal.pthread_sigmask(getattr(signal, how), {getattr(signal, name) for name in WARNINGS})
