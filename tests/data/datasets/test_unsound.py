"""Copies that are not sound: tables, packed files, archives and folders whose trouble is named in one message."""

import os
import zipfile

import numpy as np
import pytest

from metalab.core.errors import UserError
from metalab.data.formats.file_tree import tree, zip_members
from metalab.data.formats.layouts import csv_images
from metalab.data.formats.packed_npz import packed

SOUND = {
    "blob": np.zeros(8, np.uint8),
    "offsets": np.array([0, 3, 8]),
    "labels": np.array([0, 1]),
    "class_names": np.array(["a", "b"]),
    "files": np.array(["1.jpg", "2.jpg"]),
}


def read(root, **changed):
    np.savez(root / "train.npz", **SOUND | changed)
    layout = packed(root)
    assert layout is not None
    return list(layout.pictures())


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"labels": np.array([0, 7])}, "labels must be whole numbers, at least 0 and below its 2 classes"),
        ({"labels": np.array([0, -1])}, "labels must be whole numbers"),
        ({"labels": np.array(["a", "b"])}, "labels must be whole numbers"),
        ({"class_words": np.array(["a"])}, "labels must be whole numbers"),
        ({"offsets": np.array([0, 3])}, r"has offsets \[2\], labels \[2\].*expected: .*offsets \[N\+1\]"),
        ({"offsets": np.array([0, 9, 8])}, "offsets must be whole numbers, none below the one before"),
        ({"offsets": np.array([0, 3, 80])}, r"blob is uint8 \[8\], expected: uint8 \[80\]"),
        ({"blob": np.array(3)}, r"blob is int64 \[\], expected: uint8 \[8\]"),
        ({"files": np.array(["1.jpg"])}, r"files \[1\]; expected: "),
        ({"labels": np.array(0)}, r"labels \[\],.*expected"),
        ({key: SOUND[key][:0] for key in ("blob", "labels", "files")} | {"offsets": np.array([0])}, "N at least 1"),
    ],
)
def test_a_packed_file_whose_arrays_do_not_fit_is_named(tmp_path, changed, why):
    assert [(each.class_name, each.file) for each in read(tmp_path)] == [
        ("a", "train.npz/1.jpg"),
        ("b", "train.npz/2.jpg"),
    ]
    with pytest.raises(UserError, match=rf"train\.npz.*{why}"):
        read(tmp_path, **changed)


def test_half_a_packed_file_is_named(tmp_path):
    read(tmp_path)
    raw = (tmp_path / "train.npz").read_bytes()
    (tmp_path / "train.npz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match=r"train\.npz is no sound npz file"):
        packed(tmp_path)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("filename,label\né.jpg,n1\n".encode("latin-1"), r"train\.csv is no table in UTF-8"),
        (
            b"file,class\na.jpg,n1,more,and more\n",
            r"columns file, class; expected: filename,label, with both in line 2",
        ),
        (b"filename,label\na.jpg,n1\na.jpg\n", "with both in line 3"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, table, why):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_bytes(table)
    with pytest.raises(UserError, match=why):
        csv_images(tmp_path)


def test_a_member_without_a_name_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("./", b"")
        archive.writestr("a/1.png", b"1")
    assert list(zip_members(tmp_path / "a.zip")) == [("a/1.png", b"1")]
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"2")
    with pytest.raises(UserError, match=r"a\.zip names a file without a name"):
        list(zip_members(tmp_path / "a.zip"))


def test_a_link_to_a_folder_above_is_not_followed_and_one_to_nothing_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "b2.png").symlink_to("a/1.png")
    (tmp_path / ".hidden").symlink_to("nowhere")
    files = [os.path.relpath(file, tmp_path) for file in tree(tmp_path)]
    assert files == ["a/1.png", "b/1.png", "b2.png"]
    for target in ("nowhere.png", "2.png"):  # the second is itself
        (tmp_path / "a" / "2.png").symlink_to(target)
        with pytest.raises(UserError, match=rf"a/2\.png is a link to {target}, which is not there: remove it"):
            list(tree(tmp_path))
        (tmp_path / "a" / "2.png").unlink()
