"""`metalab data check`: the report and its exit code."""

import json
import shutil
from pathlib import Path

import pytest


def test_check_finds_a_planted_copy_and_a_class_in_two_splits_is_exit_code_1(command_line, images, own):
    (images / "test" / "test0" / "9.png").write_bytes((images / "train" / "train1" / "0.png").read_bytes())
    code, said = command_line("data", "check", "folder", f"data.root={images}", "data.size=16", "out=found")
    assert code == 0
    assert "pairs of identical images: 1, 1 of them across splits" in said
    assert "train/train1/0.png = test folder:" in said
    assert (Path("found") / "leaks.json").is_file()
    code, said = command_line("data", "check", "leaky", "--config-dir", str(own))
    assert code == 1
    assert "classes in two splits: 1\n  both: train and test" in said
    assert "no val split: there is no validation here" in said
    assert command_line("data", "check", "leaky", "data.shared=false", "--config-dir", str(own))[0] == 0


def test_check_names_the_images_that_imagenet_has_too(command_line, images, tmp_path):
    words = ("data", "check", "folder", f"data.root={images}", "data.size=16", f"out={tmp_path}")
    assert "ImageNet" not in command_line(*words)[1]
    (images / "test" / "test0" / "0.png").rename(images / "test" / "test0" / "Blue_Jay_0053_62744.jpg")
    code, said = command_line(*words)
    assert code == 0
    assert "images that ImageNet has, too, by published lists of file names: 1\n  test test/test0/Blue_Jay" in said
    file = "test/test0/Blue_Jay_0053_62744.jpg"
    found = json.loads((tmp_path / "leaks.json").read_text())["imagenet"]
    assert found == [{"split": "test", "file": file, "imagenet": "n01580077_4622.JPEG"}]


def test_check_reports_what_a_training_refuses_in_a_folder(command_line, images, tmp_path):
    (images / "test" / "test0").rename(images / "test" / "train0")
    for twin in ("train/again", "val/other"):
        shutil.copytree(images / "train" / "train1", images / twin)
    words = ("data", "check", "folder", f"data.root={images}", "data.size=16")
    code, said = command_line(*words, f"out={tmp_path}")
    assert code == 1
    assert "classes in two splits: 2\n  again = train1 = other: train and val\n" in said
    assert "\n  train0: train and test\npairs of identical images: 9, 6 of them across splits\n" in said
    assert "  train folder:" in said
    found = json.loads((tmp_path / "leaks.json").read_text())["classes"]
    assert found == {"again = train1 = other": ["train", "val"], "train0": ["train", "test"]}
    for harmless in ("test/train0", "val/other"):
        shutil.rmtree(images / harmless)
    code, said = command_line(*words)
    assert (code, "classes in two splits: none\nclasses of one split with the same images: 1\n" in said) == (0, True)
    shutil.rmtree(images / "train" / "again")
    (images / "val" / "val1").rename(images / "val" / "train0")
    assert command_line(*words)[0] == 1
    assert command_line(*words, "data.allow_same_names=true")[0] == 0
    code, said = command_line("data", "prepare", *words[2:])
    assert (code, "1 class names stand in two of train/ val/ test/: train0" in said) == (1, True)


def test_check_names_every_file_that_cannot_be_read(command_line, images, tmp_path):
    for i in range(25):
        (images / "val" / "val3" / f"broken{i:02d}.jpg").write_bytes(b"")
    words = ("data", "check", "folder", f"data.root={images}", "data.size=16", f"out={tmp_path}")
    for _ in range(2):  # the second time from the store
        code, said = command_line(*words)
        assert (code, "files that cannot be read: 25\n  val/val3/broken00.jpg\n" in said) == (0, True)
        found = json.loads((tmp_path / "leaks.json").read_text())["unreadable"]
        assert found == [f"val/val3/broken{i:02d}.jpg" for i in range(25)]


@pytest.mark.slow
def test_check_reports_a_folder_in_a_union_as_it_does_the_folder_alone(command_line, images, tmp_path):
    (images / "test" / "test0").rename(images / "test" / "train0")
    (images / "val" / "val3" / "broken.jpg").write_bytes(b"")
    shutil.copy(images / "train" / "train1" / "0.png", images / "test" / "test2" / "copy.png")
    members = ("+data@data.members.mine=folder", "+data@data.members.other=glyphs")
    own = (f"data.members.mine.root={images}", "data.members.mine.size=16", "data.members.other.images=2")
    words = ("data", "check", "union", *members, *own)
    code, said = command_line(*words, f"out={tmp_path}")
    assert code == 1, said
    assert "classes in two splits: 1\n  mine/train0: train and test\n" in said
    assert "files that cannot be read: 1\n  mine/val/val3/broken.jpg" in said
    same = [{place["file"] for place in places} for places in json.loads((tmp_path / "leaks.json").read_text())["same"]]
    assert {"mine/train/train1/0.png", "mine/test/test2/copy.png"} in same
    assert command_line(*words, "data.members.mine.allow_same_names=true")[0] == 0
    code, said = command_line("data", "prepare", *words[2:])
    assert (code, "1 class names stand in two of train/ val/ test/: train0" in said) == (1, True)
