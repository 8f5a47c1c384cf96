"""What tests of `metalab data` share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LEAKY = """
from dataclasses import dataclass
import torch
from metalab.data.storage.store import NoSplit
from metalab.core.errors import UserError
from metalab.interfaces import Split

@dataclass(frozen=True)
class Leaky:
    shared: bool
    broken: bool = False

    def load(self, split):
        if self.broken:
            print("loading")
            raise UserError("the disk is gone")
        if split == "val":
            raise NoSplit("there is no validation here")
        ids = [f"{split}:{i}" for i in range(3)] + (["both"] if self.shared else ["only:" + split])
        images = torch.randint(256, (8, 1, 16, 16), generator=torch.Generator().manual_seed(len(split)))
        two = torch.full((4,), 2)
        return Split(images.to(torch.uint8), torch.arange(4) * 2, two, ids, ids)
"""


@pytest.fixture
def images(tmp_path) -> Path:
    """A user's folder: train/ val/ test/ with six classes of three pictures each."""
    draw = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for k in range(6):
            place = tmp_path / "images" / split / f"{split}{k}"
            place.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(draw.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A config folder of the user's with data=leaky, whose code lies in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "leaky.yaml").write_text("_target_: leaky.Leaky\nshared: true\n")
    (tmp_path / "leaky.py").write_text(LEAKY)
    return tmp_path / "conf"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "cache"))
