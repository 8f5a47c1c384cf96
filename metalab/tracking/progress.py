"""Show where a run is: a bar on a terminal, plain lines elsewhere."""

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from metalab.core.interfaces import TaskResult

logger = logging.getLogger("metalab")
PLAIN_SECONDS = 5.0  # without a terminal, at most one line in this time, beside one for every validation
SPEED_SECONDS = 600.0  # the speed is the mean over this time, so that validation and slow steps are part of it


def counted(results: Iterable["TaskResult"], what: str, total: int) -> Iterator["TaskResult"]:
    """Yield the results, and show on a terminal how many episodes they were."""
    console = screen(sys.stderr)
    columns = (TextColumn(what), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as shown:
        task = shown.add_task("", total=total)
        for result in results:
            shown.advance(task, len(result.correct))
            yield result


def screen(stream: TextIO) -> Console:
    """Return the console of standard output or error: FORCE_COLOR in a file means colours, no bar that moves."""
    return Console(stderr=stream is sys.stderr, force_interactive=None if stream.isatty() else False)


class Display:
    """Keep the last numbers in view: two lines below all that is printed on a terminal, else a line now and then."""

    def __init__(self, steps: int, start: int, console: Console) -> None:
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[pace]}"),
            console=console,
            expand=True,
            speed_estimate_period=SPEED_SECONDS,
        )
        self._progress.add_task("", total=steps, completed=start, pace="")
        self._task = self._progress.tasks[0]
        self._moved: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []
        self._last: dict[str, float] = {}
        self._best = -math.inf
        self._shown = -math.inf  # when the last plain line was
        self._waiting = False  # for a plain line
        self._live = Live(get_renderable=self._render, console=console) if console.is_interactive else None

    def open(self) -> None:
        """Put the bar on the terminal, and let what is printed or logged from now on appear above it."""
        if self._live is None:
            return
        before = (sys.stdout, sys.stderr)
        self._live.start(refresh=True)  # from here on sys.stdout and sys.stderr print above the bar
        for handler in [*logging.getLogger().handlers, *logger.handlers]:
            for old, new in zip(before, (sys.stdout, sys.stderr), strict=True):
                # Logging holds the stream that it was set up with, and would write into the bar.
                if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                    handler.setStream(new)
                    self._moved.append((handler, old))

    def take(self, numbers: Mapping[str, float]) -> None:
        """Remember numbers by tag; accuracies are fractions."""
        self._last.update(numbers)
        self._best = max(self._best, numbers.get("val/accuracy", -math.inf))

    def update(self, numbers: Mapping[str, float], step: int) -> None:
        """Remember the numbers of a step and show them: at once where they are a validation's, else by the clock."""
        self.take(numbers)
        self._progress.update(self._task.id, completed=step)
        self._progress.update(self._task.id, pace=_pace(self._task.speed, self._task.remaining or 0))
        self._waiting = True
        if "val/accuracy" in numbers or time.monotonic() - self._shown >= PLAIN_SECONDS:
            self._plain()

    def close(self) -> None:
        """Show what has not been shown and give the terminal back."""
        self._plain()
        for handler, stream in self._moved:
            handler.setStream(stream)
        self._moved.clear()
        if self._live is not None:
            self._live.stop()

    def _plain(self) -> None:
        if self._live is None and self._waiting:
            step = f"step {self._task.completed:.0f}/{self._task.total:.0f}"
            logger.info("  ".join(filter(None, (step, self._numbers(), self._task.fields["pace"]))))
            self._shown, self._waiting = time.monotonic(), False

    def _render(self) -> Group:
        return Group(self._progress, Text(self._numbers()))

    def _numbers(self) -> str:
        parts = []
        if "train/loss" in self._last:
            parts.append(f"loss {self._last['train/loss']:.3f}")
        if "train/accuracy" in self._last:
            parts.append(f"acc {100 * self._last['train/accuracy']:.1f} %")
        if "val/accuracy" in self._last:
            ci95 = f" ± {100 * self._last['val/ci95']:.1f}" if "val/ci95" in self._last else ""
            parts.append(f"val {100 * self._last['val/accuracy']:.1f}{ci95} %  best {100 * self._best:.1f} %")
        return "  ".join(parts)


def _pace(speed: float | None, remaining: float) -> str:
    """Say how fast it goes and how long it takes; nothing before two steps are known."""
    if not speed:
        return ""
    minutes, seconds = divmod(math.ceil(remaining / speed), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{speed:.{1 if speed >= 1 else 3}f} steps/s  {left} left"
