"""Small copies of miniImageNet in every layout that it goes around in."""

import csv
import io
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from metalab.data.class_lists import SPLITS, class_list

CLASSES = {wnid: split for split in SPLITS for wnid in class_list(f"miniimagenet_ravi_{split}")}


SHOTS = 3


def pixels(wnid: str, i: int) -> np.ndarray:
    """Return [84,84,3] of one colour, which tells class and image apart and survives JPEG."""
    return np.full((84, 84, 3), (2 * sorted(CLASSES).index(wnid), 50 * i, 90), np.uint8)


def jpeg(wnid: str, i: int, quality: int = 95) -> bytes:
    raw = io.BytesIO()
    Image.fromarray(pixels(wnid, i)).save(raw, "JPEG", quality=quality, subsampling=0)
    return raw.getvalue()


def split_folders(root: Path) -> None:
    for wnid, split in CLASSES.items():
        (root / split / wnid).mkdir(parents=True)
        for i in range(SHOTS):
            (root / split / wnid / f"{wnid}{i:08d}.jpg").write_bytes(jpeg(wnid, i))


def flat_folders(root: Path) -> None:
    for wnid in CLASSES:
        (root / wnid).mkdir(parents=True)
        for i in range(SHOTS):
            (root / wnid / f"{wnid}_{i}.JPEG").write_bytes(jpeg(wnid, i))
    (root / "readme.txt").touch()


def csv_and_images(root: Path) -> None:
    (root / "images").mkdir(parents=True)
    for split in SPLITS:
        with open(root / f"{split}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["filename", "label"])
            for wnid in class_list(f"miniimagenet_ravi_{split}"):
                for i in range(SHOTS):
                    table.writerow([f"{wnid}{i:08d}.jpg", wnid])
                    (root / "images" / f"{wnid}{i:08d}.jpg").write_bytes(jpeg(wnid, i))


def learn2learn_pickles(root: Path) -> None:
    root.mkdir(parents=True)
    for split, name in zip(SPLITS, ("train", "validation", "test"), strict=True):
        wnids = class_list(f"miniimagenet_ravi_{split}")
        images = np.stack([pixels(wnid, i) for wnid in wnids for i in range(SHOTS)])
        rows = {wnid: list(range(SHOTS * k, SHOTS * k + SHOTS)) for k, wnid in enumerate(wnids)}
        held = {"image_data": images, "class_dict": rows}
        (root / f"mini-imagenet-cache-{name}.pkl").write_bytes(pickle.dumps(held))


def packed_npz(root: Path) -> None:
    root.mkdir(parents=True)
    for split in SPLITS:
        wnids = class_list(f"miniimagenet_ravi_{split}")
        raws = [jpeg(wnid, i, quality=75) for wnid in wnids for i in range(SHOTS)]
        np.savez(
            root / f"mini84_{split}.npz",
            blob=np.frombuffer(b"".join(raws), np.uint8),
            offsets=np.cumsum([0, *map(len, raws)]),
            labels=np.repeat(np.arange(len(wnids)), SHOTS).astype(np.int16),
            class_names=np.array(wnids),
            files=np.array([f"{wnid}{i:08d}.jpg" for wnid in wnids for i in range(SHOTS)]),
        )


LAYOUTS = [split_folders, flat_folders, csv_and_images, learn2learn_pickles, packed_npz]
