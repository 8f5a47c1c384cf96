"""Matlab files that are none, or hold something else than numbers, are named in one message."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from metalab.core.errors import UserError
from metalab.data.datasets.photos.svhn import SVHN
from metalab.data.datasets.photos.vgg_flower import VGGFlower

PAGES = ["<html>", "<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>\n" * 9, ""]


def svhn(root):
    return SVHN(str(root), str(root / "cache"))


def flowers(root):
    (root / "jpg").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(root / "jpg" / "image_00001.jpg")
    return VGGFlower(str(root), str(root / "cache"), 8)


@pytest.mark.parametrize("page", PAGES)
def test_a_web_page_is_named(tmp_path, page):
    for name in ("train_32x32.mat", "test_32x32.mat", "imagelabels.mat"):
        (tmp_path / name).write_text(page)
    with pytest.raises(UserError, match=r"_32x32\.mat is no sound matlab file with X and y"):
        svhn(tmp_path).load("test")
    with pytest.raises(UserError, match=r"imagelabels\.mat is no sound matlab file with labels"):
        flowers(tmp_path).load("test")


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ({"X": "text", "y": "text"}, "X is <U4"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": "ab"}, "y is <U2"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], "a"], object)}, "y is object"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [1, 2, 3]}, r"X is uint8 \(32, 32, 3, 2\) and y \(3,\)"),
    ],
)
def test_what_is_no_number_is_named(tmp_path, held, why):
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", held)
    with pytest.raises(UserError, match=rf"_32x32\.mat: {why}"):
        svhn(tmp_path).load("test")
    savemat(tmp_path / "imagelabels.mat", {"labels": held["y"]})
    with pytest.raises(UserError, match=r"imagelabels\.mat(: labels is | does not name the flowers of 1 images)"):
        flowers(tmp_path).load("test")
