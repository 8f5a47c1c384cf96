"""Pictures of a person's classes: copies of files, decoded as a run's net takes them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from metalab.serving.images import NamedImage, Support, decoded
from metalab.serving.loading import LoadedRun


@dataclass(frozen=True)
class Picture:
    """A picture of a class."""

    name: str  # of the file, as it was given
    file: Path  # the session's copy
    pixels: np.ndarray  # uint8 [C,H,W], as the run's net takes them
    digest: str  # of its content


def read(files: Sequence[Path], run: LoadedRun) -> list[tuple[Path, NamedImage]]:
    """Return the files, and what is in each; files of one folder or of several."""
    found = []
    for folder, some in itertools.groupby(files, lambda file: file.parent):
        listed = list(some)
        found += zip(listed, decoded(folder, [file.name for file in listed], run.decode), strict=True)
    return found


def support_of(classes: dict[str, list[Picture]]) -> Support:
    """Return classes with their pictures as a support."""
    pictures = [each for some in classes.values() for each in some]
    return Support(
        names=list(classes),
        images=torch.from_numpy(np.stack([each.pixels for each in pictures])),
        labels=torch.arange(len(classes)).repeat_interleave(torch.tensor([len(some) for some in classes.values()])),
        files=[f"{name}/{each.name}" for name, some in classes.items() for each in some],
        digests=[each.digest for each in pictures],
        unread={},
    )
