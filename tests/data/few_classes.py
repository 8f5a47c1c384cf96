"""Small copies of MNIST, its kin, SVHN and CIFAR-10 in the forms in which they are published."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from metalab.data.datasets.drawings.mnist import KMNIST, MNIST, FashionMNIST
from metalab.data.datasets.photos.cifar10 import ARCHIVE, BATCHES, CLASSES, FOLDER

FOUR = {"mnist": (MNIST, 10), "kmnist": (KMNIST, 10), "fashion_mnist": (FashionMNIST, 10)}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def digits(label: int, i: int) -> np.ndarray:
    """Return uint8 [28,28], another shade in the first rows, so that rows and columns cannot be mistaken."""
    image = np.full((28, 28), 3 * label + 100, np.uint8)
    image[:4] = i
    return image


def idx_files(root: Path, images: str, labels: str, parts: tuple[str, str], classes: int, lying: bool = False) -> None:
    """Write two training images a class and one test image, gzipped, not class by class."""
    root.mkdir(parents=True, exist_ok=True)
    for part, shots in zip(parts, ((0, 1), (2,)), strict=True):
        every = [(k, i) for i in shots for k in range(classes)]
        x = np.stack([digits(*each).T if lying else digits(*each) for each in every])
        y = np.array([k for k, _ in every], np.uint8)
        (root / f"{images.format(part)}.gz").write_bytes(gzip.compress(idx(x)))
        (root / f"{labels.format(part)}.gz").write_bytes(gzip.compress(idx(y)))


def four(root: Path) -> None:
    idx_files(root, "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte", ("train", "t10k"), 10)


def emnist(root: Path) -> None:
    form = "emnist-balanced-{}-"
    idx_files(root / "gzip", f"{form}images-idx3-ubyte", f"{form}labels-idx1-ubyte", ("train", "test"), 47, lying=True)


def zipped(root: Path) -> None:
    emnist(root)
    with zipfile.ZipFile(root / "gzip.zip", "w") as archive:
        for path in sorted((root / "gzip").iterdir()):
            archive.write(path, f"gzip/{path.name}")
            path.unlink()


def unpacked(root: Path) -> None:
    for path in sorted(root.rglob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()


def svhn(root: Path) -> None:
    for part, shots in (("train", (0, 1)), ("test", (2,))):
        every = [(k, i) for i in shots for k in range(1, 11)]
        x = np.stack([np.full((32, 32, 3), (10 * (k % 10), i, 7), np.uint8) for k, i in every], -1)
        x[:4] = 0
        savemat(root / f"{part}_32x32.mat", {"X": x, "y": np.array([[k] for k, _ in every], np.uint8)})


def cifar_10(root: Path) -> None:
    files: dict[str, Any] = {"batches.meta": {"label_names": list(CLASSES)}}
    for b, name in enumerate(BATCHES):
        x = np.stack([np.full((3, 32, 32), 10 * k + b, np.uint8).ravel() for k in range(10)])
        files[name] = {"data": x, "labels": list(range(10)), "filenames": [f"{k}_{b}.png" for k in range(10)]}
    with tarfile.open(root / ARCHIVE, "w:gz") as tar:
        for name, held in files.items():
            raw = pickle.dumps(held, 2)
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))
