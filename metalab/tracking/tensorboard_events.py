"""TensorBoard's files of a run, a by-product: where one cannot be written, that is said once and the run goes on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from metalab.core.optional_output import optional_output

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

WHAT = "TensorBoard's event file"


class Events:
    """Write to TensorBoard's files in a folder, of which what follows the step `start` is taken away first."""

    def __init__(self, out: Path, start: int | None = None) -> None:
        self._writer: SummaryWriter | None = None
        with optional_output(WHAT):
            from torch.utils.tensorboard import SummaryWriter as Writer  # 1.6 s, which no --help should wait for

            if start is not None:
                _cut(out, start)
            self._writer = Writer(str(out))

    def write(self, add: Callable[["SummaryWriter"], object]) -> None:
        """Let `add` write to the file; it is on disk when this returns. After a first failure nothing is written."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        with optional_output(WHAT):
            add(writer)
            writer.flush()
            self._writer = writer

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._writer is not None:
            with optional_output(WHAT):
                self._writer.close()


def _cut(out: Path, start: int) -> None:
    """Rewrite TensorBoard's files without the events after step start.

    SummaryWriter's purge_step only marks them, and TensorBoard 2.21 still draws what is marked. Files are read in the
    order of their names, in which the second and a counter stand; what is kept gets a name that sorts before all new.
    """
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.summary.writer.record_writer import RecordWriter

    for index, path in enumerate(sorted(out.glob("events.out.tfevents.*"))):
        kept = path.rename(out / f"events.out.tfevents.{index:010}.kept")
        new = out / ".events.new"  # TensorBoard reads every file with "tfevents" in its name
        with new.open("wb") as file:
            records = RecordWriter(file)
            for event in LegacyEventFileLoader(str(kept)).Load():
                if event.step <= start:
                    records.write(event.SerializeToString())
        os.replace(new, kept)
