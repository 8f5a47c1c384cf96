"""What an evaluation shows of its classes: per_class.csv, confusion.csv, pictures, and a report on the screen."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from metalab.core.optional_output import optional_output

PRINTED = 100  # classes that a screen shows
LARGEST = 120  # classes whose names can be read in one picture

Picture = Callable[[], np.ndarray]  # drawn when it is asked for: uint8 [H,W,3]


@dataclass(frozen=True)
class Confusion:
    """How many queries, or images, of one class were taken for another, of the pairs that were seen."""

    names: Sequence[str]  # [K] of all classes
    true: np.ndarray  # int64 [P], 0..K-1
    predicted: np.ndarray  # int64 [P], likewise; -1: the prediction was no number
    count: np.ndarray  # int64 [P]

    def matrix(self) -> np.ndarray:
        """Return int64 [K,K], rows the true class, columns the predicted one; predictions of no class are left out."""
        counts, sound = np.zeros((len(self.names),) * 2, np.int64), self.predicted >= 0
        counts[self.true[sound], self.predicted[sound]] = self.count[sound]
        return counts

    def picture(self, of: str) -> dict[str, Picture]:
        """Return what draws the matrix, by the file's name; nothing where the names of so many could not be read."""

        def draw() -> np.ndarray:
            from metalab.tracking.class_figures import confusion_matrix
            from metalab.tracking.figures import pixels

            return pixels(confusion_matrix(self.matrix(), self.names, f"confusion, {of}"))

        return {"confusion": draw} if len(self.names) <= LARGEST else {}


@dataclass(frozen=True)
class ClassReport:
    """What is written of one run's classes."""

    columns: Mapping[str, Sequence]  # of per_class.csv: a heading, and a value a class
    confusion: Confusion
    text: str = ""  # for the screen
    pictures: Mapping[str, Picture] = field(default_factory=dict)  # by their file's name
    scalars: Mapping[str, float] = field(default_factory=dict)  # for TensorBoard, by their name


def write(out: Path, split: str, reports: Sequence[ClassReport | None], console: Console | None = None) -> None:
    """Write the runs' reports to out: tables of all of them, pictures and the screen's report of the first alone.

    Args:
        out: an existing folder.
        split: train, val or test: what TensorBoard's names begin with.
        reports: of each run; None: it has none. What cannot be made is said, and ends nothing.
        console: where the first run's text is shown; None: standard output.
    """
    made = [(run, report) for run, report in enumerate(reports) if report is not None]
    if not made:
        return
    with optional_output("per_class.csv and confusion.csv"):
        _write_rows(out / "per_class.csv", _class_rows(made))
        _write_rows(out / "confusion.csv", _pair_rows(made))
    first = made[0][1]
    with optional_output("the pictures of the classes"):
        _draw(out, split, [report for _, report in made], first.pictures)
    if first.text and len(reports) == 1:
        with optional_output("the report of the classes"):
            (console or Console(highlight=False)).print(Text(first.text), soft_wrap=True)


def classification_text(true: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> str:
    """Return scikit-learn's classification_report in words: precision, recall, F1 and support of each class.

    Args:
        true: int64 [N], the classes 0..K-1.
        predicted: int64 [N], likewise; -1 is no class, and wrong.
        names: [K]. Of more than PRINTED classes only the averages are in the text.
    """
    from sklearn.metrics import classification_report  # seconds, which no --help should wait for

    settings: Any = {"labels": range(len(names)), "target_names": names, "zero_division": 0}
    text = str(classification_report(true, predicted, **settings))
    if len(names) <= PRINTED:
        return text
    head, *_, micro, macro, weighted, last = text.split("\n")
    return "\n".join([head, "", micro, macro, weighted, last])


def _class_rows(made: Sequence[tuple[int, ClassReport]]) -> Iterator[Sequence]:
    yield ("run", *made[0][1].columns)
    for run, report in made:
        yield from ((run, *row) for row in zip(*report.columns.values(), strict=True))


def _pair_rows(made: Sequence[tuple[int, ClassReport]]) -> Iterator[Sequence]:
    yield ("run", "true", "predicted", "count")
    for run, report in made:
        names = [*report.confusion.names, ""]  # -1 is the last: no class
        pairs = zip(report.confusion.true, report.confusion.predicted, report.confusion.count.tolist(), strict=True)
        yield from ((run, names[true], names[predicted], count) for true, predicted, count in pairs)


def _write_rows(path: Path, rows: Iterator[Sequence]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _draw(out: Path, split: str, reports: Sequence[ClassReport], pictures: Mapping[str, Picture]) -> None:
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter  # 1.6 s, which no --help should wait for

    with SummaryWriter(str(out)) as writer:
        for run, report in enumerate(reports):
            for name, value in report.scalars.items():
                writer.add_scalar(f"{split}/{name}", value, run)
        for name, make in pictures.items():
            pixels = make()
            Image.fromarray(pixels).save(out / f"{name}.png")
            writer.add_image(f"{split}/{name}", pixels, dataformats="HWC")
