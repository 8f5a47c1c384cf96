"""The leak report finds what was planted: a class twice, an image twice, a re-encoded copy; and nothing else."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from metalab.cli.data.leak_report import format_leak_report, write_leak_report
from metalab.core.interfaces import Split
from metalab.data.identity.leaks import NEAR, pairs, search

SHARED = os.environ.get("METALAB_SHARED_DATA")


def blobs(seed: int, channels: int = 3, size: int = 48) -> np.ndarray:
    """Return a smooth random image, uint8 [C,size,size]: two of them are nothing like one another."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, channels), dtype=np.uint8)
    image = Image.fromarray(noise[:, :, 0] if channels == 1 else noise).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


def split(ids: list[str], images: list[np.ndarray], turns: list[int] | None = None) -> Split:
    """Return classes of two images each; classes that share an id share its images."""
    order = list(dict.fromkeys(ids))
    return Split(
        images=torch.from_numpy(np.stack(images)),
        first=torch.tensor([2 * order.index(each) for each in ids]),
        count=torch.full((len(ids),), 2),
        ids=ids,
        names=ids,
        files=[f"{each}/{i}.png" for each in order for i in range(2)],
        turns=None if turns is None else torch.tensor(turns),
    )


def reencoded(image: np.ndarray, quality: int) -> np.ndarray:
    raw = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(raw, "JPEG", quality=quality)
    return np.asarray(Image.open(raw)).transpose(2, 0, 1)


def clean() -> dict[str, Split]:
    images = [blobs(i) for i in range(12)]
    names = {"train": ["a", "b"], "val": ["c", "d"], "test": ["e", "f"]}
    return {name: split(ids, images[4 * k : 4 * k + 4]) for k, (name, ids) in enumerate(names.items())}


def test_a_clean_data_set_has_no_leak():
    found = search(clean())
    assert (found.classes, found.same, found.near) == ({}, [], [])
    text = format_leak_report("mine", clean(), found)
    assert "classes in two splits: none\npairs of identical images: none\n" in text
    assert "candidates for near copies across splits: none" in text
    assert "mine val: 2 classes of 2 images, 4 images 3x48x48" in text


def test_a_class_in_two_splits_is_found():
    splits = clean()
    splits["test"] = split(["e", "b"], [blobs(i) for i in range(20, 24)])
    assert search(splits).classes == {"b": ["train", "test"]}
    assert "classes in two splits: 1\n  b: train and test\n" in format_leak_report("mine", splits, search(splits))


def test_identical_images_are_found_within_and_across_splits():
    splits = clean()
    splits["test"] = split(["e", "f"], [blobs(0), blobs(30), blobs(31), blobs(31)])
    splits["val"] = split(["c", "d"], [blobs(4), blobs(5), blobs(0), blobs(7)])
    found = search(splits)
    assert [[(place.split, place.file) for place in places] for places in found.same] == [
        [("train", "a/0.png"), ("val", "d/0.png"), ("test", "e/0.png")],
        [("test", "f/0.png"), ("test", "f/1.png")],
    ]
    assert len(pairs(found.same)) == 4
    assert found.near == []  # what is identical is no near copy
    text = format_leak_report("mine", splits, found)
    assert "pairs of identical images: 4, 3 of them across splits" in text
    assert "  train a a/0.png = test e e/0.png" in text


def test_a_benchmarks_image_among_ones_own_is_a_copy_whatever_its_pixels_became():
    splits = clean()
    splits["train"].image_ids.extend(["published:1", "published:2", "published:3", "published:3"])
    splits["val"].image_ids.extend(["image:7", "image:1", "image:8", "image:9"])
    splits["test"].image_ids.extend(["published:2", "published:5", "", ""])  # of two benchmarks the ids decide alone
    assert [[place.file for place in places] for places in search(splits).same] == [["a/0.png", "c/1.png"]]


def test_a_reencoded_and_a_brighter_copy_in_another_split_are_candidates_nearest_first(tmp_path):
    splits = clean()
    brighter = (blobs(1) * 0.8 + 50).astype(np.uint8)
    splits["test"] = split(["e", "f"], [reencoded(blobs(0), 60), blobs(9), brighter, reencoded(blobs(9), 60)])
    found = search(splits)
    assert {(p.one.file, p.other.file) for p in found.near} == {("a/0.png", "e/0.png"), ("a/1.png", "f/0.png")}
    assert [p.distance for p in found.near] == sorted(p.distance for p in found.near)
    assert max(p.distance for p in found.near) <= NEAR
    write_leak_report(tmp_path / "out", splits, found)
    assert (tmp_path / "out" / "leaks.json").stat().st_size > 100
    assert Image.open(tmp_path / "out" / "near.png").size[1] > 2 * 48


def test_rotations_that_share_their_images_are_no_copies():
    splits = {"train": split(["a"] * 4 + ["b"] * 4, [blobs(i, 1) for i in range(4)], [0, 1, 2, 3] * 2)}
    found = search({**splits, "test": split(["c"], [blobs(9, 1), blobs(10, 1)])})
    assert (found.classes, found.same, found.near) == ({}, [], [])


def test_a_long_report_is_cut_and_says_so():
    splits = clean()
    splits["val"] = split([f"c{i}" for i in range(15)], [blobs(77)] * 30)
    text = format_leak_report("mine", splits, search(splits))
    assert "pairs of identical images: 435, 0 of them across splits" in text
    assert "  and 415 more; out=FOLDER writes them all" in text


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="METALAB_SHARED_DATA is unset: there are no real images to compare")
@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("cifarfs", "cifar100", "26, 15 of them across splits"),
        ("fc100", "cifar100", "26, 3 of them across splits"),
        ("omniglot", "omniglot", "1, 0 of them across splits"),
    ],
)
def test_the_copies_in_the_real_benchmarks_are_found(name, folder, expected, command_line, tmp_path):
    code, said = command_line("data", "check", name, f"data.root={SHARED}/{folder}", f"data.cache={tmp_path}")
    assert code == 0
    assert f"pairs of identical images: {expected}" in said
