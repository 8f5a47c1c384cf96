"""Small copies of CIFAR-100 in every layout that is read."""

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metalab.data.datasets.photos.cifar100 import ARCHIVE, CLASSES, FOLDER

NAMES = sorted(CLASSES)


def pixels(name: str, i: int) -> np.ndarray:
    """Return [32,32,3] of one colour, which tells class and image apart and survives JPEG, on a dark lower half."""
    image = np.full((32, 32, 3), (2 * NAMES.index(name), 50 * i, 90), np.uint8)
    image[16:, :, 2] = 0
    return image


def parts() -> dict[str, bytes]:
    """Return the official archive's three pickles, two training images a class and one test image."""
    files: dict[str, Any] = {"meta": {"fine_label_names": NAMES, "coarse_label_names": ["x"]}}
    for part, shots in (("train", (0, 1)), ("test", (2,))):
        every = [(name, i) for i in shots for name in NAMES]  # not class by class
        files[part] = {
            "data": np.stack([pixels(*each).transpose(2, 0, 1).ravel() for each in every]),
            "fine_labels": [NAMES.index(name) for name, _ in every],
            "filenames": [f"{name}_s_{i:06d}.png" for name, i in every],
        }
    return {name: pickle.dumps(held, 2) for name, held in files.items()}


def archive(root: Path) -> None:
    root.mkdir()
    with tarfile.open(root / ARCHIVE, "w:gz") as tar:
        for name, raw in parts().items():
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))


def unpacked(root: Path) -> None:
    (root / FOLDER).mkdir(parents=True)
    for name, raw in parts().items():
        (root / FOLDER / name).write_bytes(raw)


def folders(root: Path) -> None:
    for name in NAMES:
        for i in range(3):
            place = root / ("train" if i < 2 else "test") / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(name, i)).save(place / f"{i}.png")


def packed(root: Path) -> None:
    root.mkdir()
    raws = []
    for name in NAMES:
        for i in range(3):
            raw = io.BytesIO()
            Image.fromarray(pixels(name, i)).save(raw, "JPEG", quality=95, subsampling=0)
            raws.append(raw.getvalue())
    np.savez(
        root / "cifar100_jpeg95.npz",
        blob=np.frombuffer(b"".join(raws), np.uint8),
        offsets=np.cumsum([0, *map(len, raws)]),
        labels=np.repeat(np.arange(100), 3).astype(np.int16),
        class_names=np.array(NAMES),
        files=np.array([f"{name}_{i}.png" for name in NAMES for i in range(3)]),
    )
