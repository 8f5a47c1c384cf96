"""The user's own tree: read whole, split by class, and nothing dropped in silence."""

import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from metalab.core.errors import UserError
from metalab.data.sampling.episode_sampler import EpisodeSampler
from tests.data.folder import SPLITS, folder, load, load_named, picture, refusal, tree


def test_classes_are_split_by_ratio_and_seed(root):
    tree(root, classes=20, images=3)
    splits = load(root)
    assert [len(splits[name].ids) for name in SPLITS] == [13, 3, 4]
    names = [name for split in splits.values() for name in split.names]
    assert sorted(names) == [f"class{c:02d}" for c in range(20)]
    assert len({class_id for split in splits.values() for class_id in split.ids}) == 20  # disjoint by id
    assert all(class_id.startswith("folder:") for class_id in splits["train"].ids)
    assert splits["train"].images.shape == (39, 3, 12, 12)
    assert splits["train"].files[0].endswith(splits["train"].names[0] + "/0.png")
    assert load(root, seed=1)["test"].names != splits["test"].names
    assert load(root)["test"].names == splits["test"].names


def test_ids_stay_under_another_name_order_and_size(root, tmp_path):
    tree(root)
    before = {name: i for split in load(root).values() for name, i in zip(split.names, split.ids, strict=True)}
    other = tmp_path / "other"
    for c in range(10):
        for i in range(5):
            picture(other / f"renamed{9 - c}" / f"z{9 - i}.bmp", 100 * c + i)
    after = load(other, size=24, channels=1)
    after = {name: i for split in after.values() for name, i in zip(split.names, split.ids, strict=True)}
    assert {f"renamed{9 - c}": before[f"class{c:02d}"] for c in range(10)} == after


def test_train_val_test_folders(root, caplog):
    for k, split in enumerate(SPLITS):
        tree(root / split, classes=2 + k, images=2, offset=10_000 * k)
    (root / "extra").mkdir()
    splits = load(root, allow_same_names=True)
    assert [len(splits[name].ids) for name in SPLITS] == [2, 3, 4]
    assert splits["val"].files[0] == os.path.join("val", "class00", "0.png")
    assert "1 folders beside train/ val/ test/ are left out: extra" in caplog.text


def test_a_class_name_in_two_split_folders_is_refused_unless_they_are_different_classes(root):
    for k, split in enumerate(SPLITS):
        tree(root / split, classes=3, images=2, offset=10_000 * k)
    text = refusal(root)
    assert text.startswith(
        "3 class names stand in two of train/ val/ test/: class00 (train and val and test), class01 (train and"
    )
    assert "type data.allow_same_names=true" in text
    assert load(root, allow_same_names=True)["test"].note == "3 class names stand in two splits"
    for split in ("val", "test"):
        for c in range(3):
            (root / split / f"class{c:02d}").rename(root / split / f"{split}{c}")
    assert load(root)["test"].note == ""


def test_a_class_may_be_called_test(root):
    tree(root, classes=9)
    picture(root / "test" / "0.png", 5000)
    assert "test" in [name for split in load(root).values() for name in split.names]


def test_every_mode_and_size_of_image(root):
    tree(root)
    for mode, end in (("RGBA", "png"), ("L", "jpg"), ("P", "png"), ("CMYK", "jpg"), ("1", "bmp"), ("LA", "png")):
        picture(root / "class00" / f"{mode}.{end.upper()}", 7000 + ord(mode[0]) + len(mode), (40, 9), mode)
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160).save(root / "class00" / "deep.png")
    counts = [int(count) for split in load(root).values() for count in split.count]
    assert sorted(counts) == [5] * 9 + [12]
    assert load(root, channels=1)["train"].images.shape[1:] == (1, 12, 12)


def test_nested_hidden_and_linked(root, tmp_path):
    tree(root)
    picture(root / "class00" / "deep" / "deeper" / "x.png", 9000)
    picture(root / "class00" / ".hidden" / "x.png", 9001)
    picture(root / "class00" / ".x.png", 9002)
    picture(root / ".git" / "x.png", 9003)
    picture(tmp_path / "elsewhere" / "x.png", 9004)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "class01" / "x.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    (root / "class02" / "loop").symlink_to(root / "class02")
    (root / "linked2").symlink_to(tmp_path / "elsewhere2")  # to nowhere
    expected = {f"class{c:02d}": 5 for c in range(10)} | {"class00": 6, "class01": 6, "linked": 1}
    assert load_named(root, allow_copies=True) == expected


def test_what_is_left_out_is_said(root, caplog):
    tree(root)
    (root / "class00" / "notes.txt").write_text("x")
    (root / "class01" / "photo.HEIC").write_text("x")
    (root / "empty").mkdir()
    (root / "readme.md").write_text("x")
    picture(root / "stray.png", 1)
    with caplog.at_level(logging.WARNING, "metalab.data"):
        load(root)
    assert "2 files in class folders are no images and are left out: 1 .txt, 1 .heic (read: .avif .bmp" in caplog.text
    assert "1 class folders hold no image and are left out: empty" in caplog.text
    assert "2 files stand where a class folder is expected and are left out: readme.md, stray.png" in caplog.text


def test_a_changed_tree_is_read_again(root):
    tree(root)
    assert load_named(root)["class00"] == 5
    picture(root / "class00" / "more.png", 9000)
    assert load_named(root)["class00"] == 6
    picture(root / "class00" / "more.bmp", 9001)
    before = {split: found.images.clone() for split, found in load(root).items()}
    os.utime(root / "class00" / "more.bmp", ns=(0, 0))
    picture(root / "class00" / "more.bmp", 9002)  # as many bytes as before
    assert not all(torch.equal(found.images, before[split]) for split, found in load(root).items())


def test_few_images_a_class_work_with_few_queries(root):
    tree(root)
    split = folder(root, ratios=[0.6, 0.2, 0.2]).load("train")
    cpu = torch.device("cpu")
    with pytest.raises(
        UserError, match=r"has 5 images, 1-shot with 15 queries needs 16; 6 of 6 .*: type task.train_query=4"
    ):
        EpisodeSampler(split, 5, 1, 15, 4, 0, "train", cpu)
    assert EpisodeSampler(split, 5, 1, 4, 4, 0, "train", cpu)(0).query.x.shape == (4, 20, 3, 12, 12)


def test_frames_of_one_video_stay_on_one_side(root):
    for c in range(10):
        for video in range(3):
            for frame in range(4):
                picture(root / f"class{c}" / f"video{video}_{frame}.png", 100 * c + 10 * video + frame)
    split = folder(root, group=r"class\d+/video(\d+)_").load("train")
    assert split.group is not None
    draw = EpisodeSampler(split, 5, 2, 3, 200, 0, "train", torch.device("cpu")).indices(0)
    videos = [[split.files[i].rpartition("_")[0] for i in row] for row in draw.image.tolist()]
    assert all(not set(row[:10]) & set(row[10:]) for row in videos)
    with pytest.raises(UserError, match=r"data\.group=film is not in \d+ of the \d+ file names, such as class"):
        folder(root, group="film").load("train")


def test_names_of_any_bytes(root):
    tree(root)
    try:
        os.mkdir(os.fsencode(root) + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    name = os.fsdecode(os.fsencode(root) + b"/caf\xe9/0.png")
    Image.new("RGB", (9, 9), "red").save(name)
    assert load_named(root)["caf\\udce9"] == 1
