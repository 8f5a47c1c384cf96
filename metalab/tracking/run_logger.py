"""Write down a run while it happens: metrics.jsonl and TensorBoard, with a progress display."""

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from metalab.core.disk import disk_errors
from metalab.core.errors import UserError
from metalab.tracking.progress import Display, screen
from metalab.tracking.tensorboard_events import Events

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger("metalab")


class Log:
    """Write a run's numbers to metrics.jsonl and TensorBoard, and show them: a bar on a terminal, else plain lines.

    What the folder holds of steps after `start` is taken away first: a resumed run logs them again.
    Every call is on disk when it returns, so log a step before its checkpoint is saved and a killed run has no gap.
    Accuracies are fractions in 0..1, shown in per cent.
    """

    def __init__(self, out: Path, steps: int, start: int = 0, console: Console | None = None) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._display = Display(steps, start, console or screen(sys.stdout))
        for line in _cut_lines(out / "metrics.jsonl", start):
            self._display.take({tag: value for tag, value in line.items() if value is not None})
        self._path = out / "metrics.jsonl"
        with disk_errors(self._path):
            self._lines = self._path.open("ab", buffering=0)  # what a full disk refused must not come again at the end
        self._events = Events(out, start)

    def __enter__(self) -> "Log":
        self._display.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write one line {"step": step, **values} and the same scalars; a number that is not finite is null there."""
        numbers = {tag: float(value) for tag, value in values.items()}
        self._write(numbers, step)
        self._display.update(numbers, step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Write markdown to TensorBoard."""
        self._events.write(lambda writer: writer.add_text(tag, markdown, step))

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Write a picture to TensorBoard."""
        from metalab.tracking.figures import pixels

        self._events.write(lambda writer: writer.add_image(tag, pixels(figure), step, dataformats="HWC"))

    def hparams(self, params: Mapping[str, int | float | str | bool], metrics: Mapping[str, float], step: int) -> None:
        """Give the run a row in TensorBoard's HParams table, and write metrics as scalars of the step.

        The table has a column for every scalar of the run, so metrics may be empty: then the row is there from the
        first step on, and a killed run has one, too. No list of columns is written: TensorBoard would take that of
        one run for all, where runs of different algorithms have different ones.
        """

        def add(writer: "SummaryWriter") -> None:
            from tensorboard.plugins.hparams import summary_v2  # their api module needs tensorflow

            # An empty trial id names the row after the folder; the default would average runs of equal ones.
            file_writer = writer._get_file_writer()  # add_hparams can only write to a sub-folder
            file_writer.add_summary(summary_v2.hparams_pb(dict(params), trial_id=""), step)

        self._events.write(add)
        if metrics:
            self._write({tag: float(value) for tag, value in metrics.items()}, step)

    def say(self, message: str) -> None:
        """Show a line above the bar, and in whatever else the logger "metalab" writes to."""
        logger.info(message)

    def close(self) -> None:
        """Show the last numbers, give the terminal back and close the files; a second call does nothing."""
        self._display.close()
        self._lines.close()
        self._events.close()

    def _write(self, numbers: dict[str, float], step: int) -> None:
        finite = {tag: value if math.isfinite(value) else None for tag, value in numbers.items()}
        line = json.dumps({"step": step, **finite}, allow_nan=False) + "\n"
        with disk_errors(self._path):
            left = line.encode()
            while left:
                left = left[self._lines.write(left) :]
        self._events.write(lambda writer: [writer.add_scalar(tag, value, step) for tag, value in numbers.items()])


def _cut_lines(path: Path, start: int) -> list[dict]:
    """Keep the lines of metrics.jsonl up to step start, and return them."""
    if not path.exists():
        return []
    kept = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break  # the process was killed while it wrote this
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number}: expected one JSON object a line, found {line.strip()[:60]!r}; "
                f"to go on with this run, mend that line or delete it"
            ) from error
        if values["step"] <= start:
            kept.append((line, values))
    new = path.with_name(".metrics.jsonl.new")
    with disk_errors(path):
        new.write_text("".join(line for line, _ in kept), encoding="utf-8")
        os.replace(new, path)
    return [values for _, values in kept]
