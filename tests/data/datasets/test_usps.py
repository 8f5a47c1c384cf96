"""USPS: LIBSVM's text files are read as torchvision reads them, and one file alone is split by seed."""

import bz2
import os
from pathlib import Path

import numpy as np
import pytest
import torchvision

from metalab.core.errors import UserError
from metalab.data.class_lists import SPLITS
from metalab.data.datasets.drawings.usps import USPS, WHOLE

SHARED = Path(os.environ.get("METALAB_SHARED_DATA", "nowhere")) / "usps"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="needs METALAB_SHARED_DATA, a folder with usps/usps.t.bz2")


def line(label: int, values: dict[int, float]) -> str:
    return " ".join([str(label), *(f"{i}:{value:g}" for i, value in values.items())])


def usps(root: Path, name: str, each: int, packed: bool = True) -> None:
    """Write so many images of each digit, not digit by digit: the image's number in its first pixels, 0 elsewhere."""
    rows = [
        line(k, {1: -1, 2: 1, 3: len(name) / 10, 17: (k - 5.5) / 5, 256: i / each})
        for i in range(each)
        for k in range(1, 11)
    ]
    raw = "\n".join(rows).encode()
    root.mkdir(exist_ok=True)
    (root / f"{name}{'.bz2' if packed else ''}").write_bytes(bz2.compress(raw) if packed else raw)


@pytest.mark.parametrize("packed", [True, False])
def test_both_files_are_read_label_ten_is_nine_and_a_missing_value_is_zero(tmp_path, packed):
    usps(tmp_path / "usps", "usps", 20, packed)
    usps(tmp_path / "usps", "usps.t", 3, packed)
    data = {
        name: USPS(str(tmp_path / "usps"), str(tmp_path / "cache"), protocol="images").load(name) for name in SPLITS
    }
    assert [each.count.tolist() for each in data.values()] == [[18] * 10, [2] * 10, [3] * 10]
    test = data["test"]
    assert test.ids == [f"usps:{k}" for k in range(10)]
    assert test.files[:3] == ["test/0", "test/10", "test/20"]
    expected = np.full((16, 16), 128, np.uint8)  # 127.5
    expected[0, :3], expected[1, 0], expected[15, 15] = (0, 255, 204), round((4.5 / 5 + 1) * 127.5), 128
    assert np.array_equal(test.images[27, 0].numpy(), expected)
    assert test.note == "230 images instead of 9,298"
    whole = USPS(str(tmp_path / "usps"), str(tmp_path / "cache")).load("test")
    assert whole.count.tolist() == [23] * 10


def test_one_file_alone_is_split_by_seed_and_the_note_says_so(tmp_path):
    usps(tmp_path / "usps", "usps.t", 10)
    parts = {n: USPS(str(tmp_path / "usps"), str(tmp_path / "cache"), protocol="images").load(n) for n in SPLITS}
    assert [each.count.tolist() for each in parts.values()] == [[7] * 10, [1] * 10, [2] * 10]
    assert sorted(file for each in parts.values() for file in each.files) == sorted(f"test/{i}" for i in range(100))
    assert "all images are from usps.t alone, a fifth of each digit's drawn for the test by seed 0" in parts["val"].note
    other = USPS(str(tmp_path / "usps"), str(tmp_path / "cache"), protocol="images", seed=1).load("test")
    assert set(other.files) != set(parts["test"].files)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (line(11, {1: 0.5}), "its labels must be whole numbers, 1 to 10"),
        (line(1, {1: 1.5}), "its values must be -1 to 1"),
        (line(1, {257: 0.5}), "is no sound libsvm file of 256 values an image"),
        ("one two", "is no sound libsvm file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, why):
    (tmp_path / "usps.t").write_text(text)
    with pytest.raises(UserError, match=rf"usps\.t.*{why}"):
        USPS(str(tmp_path), str(tmp_path / "cache")).load("test")


def test_downloads_are_torchvisions():
    for file, part in zip(WHOLE.downloads, ("train", "test"), strict=True):
        theirs = torchvision.datasets.USPS.split_list[part]
        assert [file.urls[0], file.name, file.checksum.removeprefix("md5:")] == theirs


@real
def test_the_real_digits_are_torchvisions(tmp_path):
    ours = USPS(str(SHARED), str(tmp_path)).load("test")
    theirs = torchvision.datasets.USPS(str(SHARED), train=False)
    order = [int(file.removeprefix("test/")) for file in ours.files]
    assert np.array_equal(np.array(theirs.targets)[order], np.repeat(np.arange(10), ours.count))
    # torchvision cuts off what we round
    assert np.abs(theirs.data[order].astype(int) - ours.images[:, 0].numpy()).max() <= 1
    assert ours.note == "2,007 images instead of 9,298"
