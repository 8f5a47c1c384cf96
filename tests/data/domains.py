"""Small domains: folders of the same classes, and MNIST beside USPS, in whose files labels can be permuted."""

import bz2
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metalab.data.datasets.domains import Domains
from tests.data.few_classes import idx

CLASSES = ("cat", "dog", "emu")
DOMAINS = ("clay", "ink", "oil")
DEFAULTS: dict[str, Any] = {
    "root": None,
    "source": None,
    "target": None,
    "source_root": None,
    "target_root": None,
    "cache": None,
    "size": None,
    "channels": None,
    "protocol": "images",
    "classes": None,
    "seed": 0,
}


def domains(**settings: Any) -> Domains:
    return Domains(**DEFAULTS | settings)


def folders(root: Path, each: int = 10, classes: Sequence[str] = CLASSES) -> Path:
    """Write so many 16x16 images of each class of each domain: bars whose place is the class's, under noise."""
    draw = np.random.default_rng(0)
    for d, domain in enumerate(DOMAINS):
        for k, name in enumerate(classes):
            (root / domain / name).mkdir(parents=True)
            for i in range(each):
                image = draw.integers(0, 60, (16, 16, 3)).astype(np.uint8)
                image[4 * k : 4 * k + 3, :, d] = 250
                Image.fromarray(image).save(root / domain / name / f"{i}.png")
    return root


def mnist(root: Path, each: int = 20) -> Path:
    """Write MNIST's four files, so many training images a digit and 5 for the test: a pattern under noise."""
    root.mkdir()
    draw = np.random.default_rng(0)
    patterns = np.kron(draw.integers(0, 256, (10, 4, 4)), np.ones((7, 7)))
    for part, n in (("train", each), ("t10k", 5)):
        y = np.repeat(np.arange(10), n)
        x = (0.6 * patterns[y] + 0.4 * draw.integers(0, 256, (len(y), 28, 28))).astype(np.uint8)
        (root / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x)))
        (root / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y.astype(np.uint8))))
    return root


def usps(root: Path, permuted: bool = False) -> Path:
    """Write both files of USPS, 12 training images a digit and 6 for the test; permuted: with other training labels."""
    root.mkdir()
    for name, each, seed in (("usps", 12, 0), ("usps.t", 6, 1)):
        draw = np.random.default_rng(seed)
        labels = np.repeat(np.arange(1, 11), each)
        values = draw.uniform(-1, 1, (len(labels), 256)).round(3)
        if permuted and name == "usps":
            labels = np.random.default_rng(9).permutation(labels)
        rows = [
            f"{y} " + " ".join(f"{i + 1}:{v}" for i, v in enumerate(x)) for y, x in zip(labels, values, strict=True)
        ]
        (root / f"{name}.bz2").write_bytes(bz2.compress("\n".join(rows).encode(), 1))
    return root
