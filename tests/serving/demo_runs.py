"""A run of a second on tiny data, loaded, and pictures as files."""

from pathlib import Path

from PIL import Image

from metalab.config.experiment import read_config
from metalab.config.schema import Predict
from metalab.core.interfaces import Split
from metalab.serving.loading import LoadedRun, load_run
from metalab.training import train

ASKED = Predict(strict=False, reject=None, calibrate=True, batch=100)


def trained(small, out: Path, *words: str) -> LoadedRun:
    """Train on tiny data into a folder, and load the run."""
    train.run(small(*words), out)
    return load_run(out, read_config(small(*words)), 100)


def saved(split: Split, folder: Path, classes: int, images: int) -> list[list[Path]]:
    """Write the first images of a split's first classes as PNG, one folder a class; return the files of each."""
    found = []
    for k in range(classes):
        (folder / f"c{k}").mkdir(parents=True)
        found.append([folder / f"c{k}" / f"{i}.png" for i in range(images)])
        for i, file in enumerate(found[-1]):
            Image.fromarray(split.images[int(split.first[k]) + i][0].numpy()).save(file)
    return found
