"""Real photographs as people have them: a folder of JPEG files a class, from PACS, re-encoded at 72x72 pixels."""

import os
from pathlib import Path

import numpy as np
import pytest

PACS = Path(os.environ.get("METALAB_SHARED_DATA", "nowhere")) / "pacs" / "pacs72.npz"
real = pytest.mark.skipif(not PACS.is_file(), reason="needs METALAB_SHARED_DATA, a folder with pacs/pacs72.npz")


def photos(root: Path, classes: dict[str, int], start: int = 0) -> None:
    """Write so many photographs of each class into root/CLASS, those from number `start` on."""
    with np.load(PACS) as held:
        blob, offsets, labels, domains = (held[name] for name in ("blob", "offsets", "labels", "domains"))
        names, photo = held["class_names"].tolist(), held["domain_names"].tolist().index("photo")
    for name, images in classes.items():
        found = np.flatnonzero((labels == names.index(name)) & (domains == photo))[start : start + images]
        (root / name).mkdir(parents=True)
        for i in found.tolist():
            (root / name / f"{i}.jpg").write_bytes(blob[offsets[i] : offsets[i + 1]].tobytes())
