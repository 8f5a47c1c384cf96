"""Make the runs below this folder: tiny trainings by a released version, which every later one must go on with.

In a checkout of that version: python make.py FOLDER, where this file and FOLDER may lie anywhere. Of each run are kept
the state after 4 steps (config.yaml, last.pt, best.pt, metrics.jsonl, run.json), and in whole.jsonl the numbers of the
same training, by the same version, that went on to step 6 without a break.
"""

import gzip
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

METALAB = (sys.executable, "-m", "metalab")
KEPT = ("config.yaml", "last.pt", "best.pt", "metrics.jsonl", "run.json")
SHARED = ("device=cpu", "backbone.filters=4", "task.way=3", "task.query=2", "train.val_every=2", "train.log_every=1")
SHARED += ("train.val_episodes=4", "eval.episodes=6", "engine=learn2learn")
FOLDER = ("data=folder", "data.size=16", "data.channels=1", "data.ratios=[0.5,0.25,0.25]", "task.train_way=3")
RUNS = {
    "protonet": (*FOLDER, "algo=protonet", "reg=dropout"),
    "maml": (*FOLDER, "algo=maml", "train.meta_batch=2", "algo.steps=2", "algo.test_steps=3"),
    "adversarial": (*FOLDER, "algo=protonet", "reg=adv_pgd", "reg.adv_pgd.steps=2", "train.bn=support"),
    "classifier": ("data=mnist", "data.protocol=images", "algo=baseline", "task.query=15", "optim.lr=0.02"),
}


def pictures(root: Path) -> None:
    """Write 24 classes of 6 images, 20x18 pixels each: a pattern under noise."""
    for k in range(24):
        draw = np.random.default_rng(k)
        pattern = np.kron(draw.integers(0, 256, (3, 3)), np.ones((6, 7)))[:, :20]
        for i in range(6):
            path = root / f"class{k:02d}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = draw.integers(0, 256, pattern.shape)
            Image.fromarray((0.7 * pattern + 0.3 * noise).astype(np.uint8)).save(path)


def digits(root: Path) -> None:
    """Write MNIST's four files, with 20 training images a class and 3 for the test: a pattern under noise."""
    root.mkdir(parents=True)
    draw = np.random.default_rng(0)
    patterns = np.kron(draw.integers(0, 256, (10, 4, 4)), np.ones((7, 7)))
    for part, n in (("train", 20), ("t10k", 3)):
        y = draw.permutation(np.repeat(np.arange(10), n)).astype(np.uint8)
        x = (0.6 * patterns[y] + 0.4 * draw.integers(0, 256, (len(y), 28, 28))).astype(np.uint8)
        for name, array in (("images-idx3", x), ("labels-idx1", y)):
            head = struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
            (root / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))


def data(words: tuple[str, ...], home: Path) -> tuple[str, str]:
    """Return the words that say where the images of a run made of `words` lie, and their cache."""
    return f"data.root={home / ('images' if 'data=folder' in words else 'digits')}", f"data.cache={home / 'cache'}"


def main(to: Path, names: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="metalab") as place:
        home = Path(place)
        pictures(home / "images")
        digits(home / "digits")
        for name in names or RUNS:
            words = [*SHARED, *RUNS[name], *data(RUNS[name], home)]
            for steps in (4, 6):
                more = [f"train.steps={steps}", f"hydra.run.dir={home / name / str(steps)}"]
                subprocess.run([*METALAB, "train", *words, *more], check=True)
            (to / name).mkdir(parents=True, exist_ok=True)
            for file in KEPT:
                shutil.copy(home / name / "4" / file, to / name / file)
            shutil.copy(home / name / "6" / "metrics.jsonl", to / name / "whole.jsonl")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])
