"""CUB: its archive, unpacked or not, and plain class folders give the same birds by either split."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metalab.core.errors import UserError
from metalab.data.class_lists import SPLITS, class_list
from metalab.data.datasets.photos.cub import CUB, PROTOCOLS

BIRDS = sorted(PROTOCOLS["closerlook"].splits)


def images() -> dict[str, bytes]:
    """Return two pictures a bird of one grey each, by name; their order is not that of the classes."""
    made = {}
    for i in range(2):
        for k, bird in enumerate(BIRDS):
            raw = io.BytesIO()
            Image.new("RGB", (10, 8), (k, k, 100 * i)).save(raw, "PNG")
            made[f"{bird}/{i}.png"] = raw.getvalue()
    return made


def unpacked(root: Path, inside: str = "CUB_200_2011/images") -> None:
    for name, raw in images().items():
        (root / inside / name).parent.mkdir(parents=True, exist_ok=True)
        (root / inside / name).write_bytes(raw)


def folders(root: Path) -> None:
    unpacked(root, "")


def archive(root: Path) -> None:
    root.mkdir()
    with tarfile.open(root / "CUB_200_2011.tgz", "w:gz", compresslevel=1) as tar:
        for name, raw in {
            "attributes.txt": b"x",
            **{f"CUB_200_2011/images/{k}": v for k, v in images().items()},
        }.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))


@pytest.mark.parametrize("lay_out", [unpacked, folders, archive])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_layout_gives_the_same_birds(tmp_path, lay_out, protocol):
    lay_out(tmp_path / "source")
    data = CUB(str(tmp_path / "source"), str(tmp_path), protocol, size=16)
    for name in SPLITS:
        split = data.load(name)
        assert sorted(split.ids) == [f"cub:{bird}" for bird in class_list(f"cub_{protocol}_{name}")]
        assert split.count.tolist() == [2] * len(split.ids)
        assert split.images.shape[1:] == (3, 16, 16)
        kinds = np.repeat([BIRDS.index(each.removeprefix("cub:")) for each in split.ids], 2)
        assert split.images[:, 0, 0, 0].tolist() == kinds.tolist()
        assert split.images[:, 2, 8, 8].tolist() == [0, 100] * len(split.ids)
    assert split.note == "400 images instead of 11,788"


def test_the_unpacked_folder_itself_may_be_given(tmp_path):
    unpacked(tmp_path)
    assert len(CUB(str(tmp_path / "CUB_200_2011"), str(tmp_path / "cache"), size=8).load("val").ids) == 50


def test_every_unreadable_image_is_named_and_nothing_is_left(tmp_path):
    unpacked(tmp_path)
    for i in range(2):
        (tmp_path / "CUB_200_2011" / "images" / BIRDS[i] / "0.png").write_bytes(b"<html>")
    with pytest.raises(UserError, match="a benchmark has to be whole") as caught:
        CUB(str(tmp_path), str(tmp_path / "cache"), size=8).load("train")
    assert all(f"{BIRDS[i]}/0.png cannot be read" in str(caught.value) for i in range(2))
    assert not list((tmp_path / "cache").glob("cub*[!k]"))  # but the .lock
    (tmp_path / "CUB_200_2011" / "images" / BIRDS[0]).rename(tmp_path / "CUB_200_2011" / "images" / "dodo")
    with pytest.raises(
        UserError, match=f"does not hold the 200 kinds of birds: dodo does not .* {BIRDS[0]} of train is"
    ):
        CUB(str(tmp_path), str(tmp_path / "cache"), size=8).load("train")
