"""The user's own tree: read whole, split by class, and nothing dropped in silence."""

import logging
import os
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metalab.data.episodes import Episodes
from metalab.data.folder import Folder
from metalab.errors import UserError

SPLITS = ("train", "val", "test")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "images"


def picture(path, seed, size=(20, 14), mode="RGB"):
    """Write a picture of noise, another one for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def tree(root, classes=10, images=5, offset=0):
    for c in range(classes):
        for i in range(images):
            picture(root / f"class{c:02d}" / f"{i}.png", offset + 100 * c + i)


def folder(root, **changed):
    cache = None if root is None else str(root.parent / "cache")
    settings: dict[str, Any] = {"root": root and str(root), "cache": cache, "size": 12, "channels": 3}
    settings |= {"ratios": [0.64, 0.16, 0.20], "seed": 0, "strict": False} | changed
    return Folder(**settings)


def load(root, **changed):
    data = folder(root, **changed)
    return {split: data.load(split) for split in SPLITS}


def load_named(root, **changed):
    found = {}
    for split in load(root, **changed).values():
        found |= dict(zip(split.names, split.count.tolist(), strict=True))
    return found


def refusal(root, **changed):
    with pytest.raises(UserError) as error:
        folder(root, **changed).load("train")
    return str(error.value)


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


def test_missing_split_folders(root):
    tree(root / "train")
    tree(root / "test", offset=10_000)
    text = refusal(root)
    assert "has class folders in train/ and test/ but none in val/: add these, or put all class folders" in text
    tree(root / "val", classes=1, offset=20_000)
    assert "val has 1 class folders with images: add some, 2 are needed" in refusal(root)


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


def broken(root, count):
    for i in range(count):
        (root / f"class{i % 10:02d}" / f"broken{i:02d}.jpg").write_bytes(b"no image" if i % 2 else b"")
    whole = (root / "class03" / "0.png").read_bytes()
    (root / "class03" / "truncated.png").write_bytes(whole[: len(whole) // 2])


def test_unreadable_images_are_named_and_the_rest_is_used(root, caplog):
    tree(root)
    broken(root, 12)
    with caplog.at_level(logging.WARNING, "metalab.data"):
        assert load_named(root) == {f"class{c:02d}": 5 for c in range(10)}
    assert "13 images cannot be read: class" in caplog.text
    assert "truncated.png (OSError: " in caplog.text
    assert "UnidentifiedImageError: cannot identify image file 'broken" in caplog.text
    assert " and 3 more" in caplog.text
    caplog.clear()
    splits = load(root)  # from the store: said again
    said = [record.getMessage() for record in caplog.records]
    assert sum(int(text.split()[0]) for text in said) == 13
    assert all("images cannot be read and are left out: class" in text for text in said)
    assert len(splits["train"].images) == 5 * len(splits["train"].ids)


def test_strict_makes_them_an_error(root):
    tree(root)
    assert folder(root, strict=True).load("train").ids
    broken(root, 12)
    text = refusal(root, strict=True)
    assert text.startswith("13 images cannot be read and data.strict=true asks for all of them: class")
    assert text.endswith("and 3 more; mend or remove them, or type data.strict=false to leave them out")
    assert text == refusal(root, strict=True)  # nothing was kept that would pass the second time


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


def test_the_same_images_in_two_classes_are_refused(root):
    tree(root)
    for i in range(5):
        picture(root / "copy" / f"{i}.png", 100 + i)
    text = refusal(root)
    assert "the class folders " in text
    assert "class01 (" in text
    assert "copy (" in text
    assert "hold the same images: nothing can tell them apart" in text


def test_an_image_that_occurs_twice_is_said(root, caplog):
    tree(root)
    picture(root / "class05" / "again.png", 500)
    load(root)
    assert "1 images occur more than once; support and query may share them: " in caplog.text
    assert "again.png" in caplog.text


def test_too_few_classes(root):
    tree(root, classes=5)
    text = refusal(root)
    assert "has 5 class folders with images; splitting them by data.ratios=[0.64, 0.16, 0.2] needs at least 6" in text
    tree(root, classes=6)
    assert [len(split.ids) for split in load(root).values()] == [2, 2, 2]
    assert "at least 4" in refusal(root, ratios=[0.2, 0.0, 0.8])


def test_a_folder_too_high(root):
    tree(root / "inner")
    assert "has 1 class folders with images; splitting them by" in refusal(root)
    assert f"or did you mean data.root={root / 'inner'}?" in refusal(root)


def test_a_split_without_a_share(root):
    tree(root)
    data = folder(root, ratios=[0.5, 0.0, 0.5])
    assert len(data.load("train").ids) == 5
    with pytest.raises(UserError, match=r"data.ratios=\[0.5, 0.0, 0.5\] leaves no class for val: type a share above 0"):
        data.load("val")


def test_few_images_a_class_work_with_few_queries(root):
    tree(root)
    split = folder(root, ratios=[0.6, 0.2, 0.2]).load("train")
    cpu = torch.device("cpu")
    with pytest.raises(
        UserError, match=r"has 5 images, 1-shot with 15 queries needs 16; 6 of 6 .*: type task.train_query=4"
    ):
        Episodes(split, 5, 1, 15, 4, 0, "train", cpu)
    assert Episodes(split, 5, 1, 4, 4, 0, "train", cpu)(0).query.x.shape == (4, 20, 3, 12, 12)


def test_frames_of_one_video_stay_on_one_side(root):
    for c in range(10):
        for video in range(3):
            for frame in range(4):
                picture(root / f"class{c}" / f"video{video}_{frame}.png", 100 * c + 10 * video + frame)
    split = folder(root, group=r"class\d+/video(\d+)_").load("train")
    assert split.group is not None
    draw = Episodes(split, 5, 2, 3, 200, 0, "train", torch.device("cpu")).indices(0)
    videos = [[split.files[i].rpartition("_")[0] for i in row] for row in draw.image.tolist()]
    assert all(not set(row[:10]) & set(row[10:]) for row in videos)
    with pytest.raises(UserError, match=r"data\.group=film is not in \d+ of the \d+ file names, such as class"):
        folder(root, group="film").load("train")


def test_root_mistakes(root):
    form = "type data.root=/path/to/images"
    assert refusal(None) == f"data=folder needs the folder that holds your class folders: {form}"
    assert f"data.root={root} does not exist: expected a folder with one folder a class; {form}" in refusal(root)
    root.write_text("x")
    assert f"data.root={root} is a file" in refusal(root)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"size": 4}, "data.size=4: expected 8 to 512 pixels; type data.size=84"),
        ({"channels": 2}, "data.channels=2: expected 1 (grey) or 3 (RGB); type data.channels=3"),
        ({"seed": -1}, "data.seed=-1: expected 0 or more; type data.seed=0"),
        ({"ratios": [0.5, 0.5]}, "data.ratios=[0.5, 0.5]: expected three shares of the classes"),
        ({"ratios": [0.5, 0.6, -0.1]}, "each 0 or more, that add up to 1; type data.ratios=[0.64,0.16,0.20]"),
        ({"ratios": [0.5, 0.2, 0.2]}, "that add up to 1"),
    ],
)
def test_settings_out_of_range(root, changed, text):
    with pytest.raises(UserError) as error:
        folder(root, **changed)
    assert text in str(error.value)


def test_names_of_any_bytes(root):
    tree(root)
    try:
        os.mkdir(os.fsencode(root) + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    name = os.fsdecode(os.fsencode(root) + b"/caf\xe9/0.png")
    Image.new("RGB", (9, 9), "red").save(name)
    assert load_named(root)["caf\\udce9"] == 1
