"""One store for one folder's pixels, and what is left out of a folder or merged, said."""

import os
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from metalab.config.experiment import read_config
from metalab.core.errors import UserError
from metalab.data.datasets import folder as module
from metalab.data.identity.class_ids import fingerprint, one_name
from metalab.tracking import checkpoint
from metalab.training import resume, train
from tests.data.folder import SPLITS, folder, load, load_named, picture, refusal, tree

OLD = {  # of runs of versions without data.depth, copies, least and skip, from the tree of `old_tree`
    "train": "63c81964bec895767811771ce72a1e3e737d9bf9e8b5e137d5d67554da3f34fa",
    "val": "5507fd32ebaa7850e653ab8bcb4dc0f724554b258916e31b9de57e5cac1119e1",
    "test": "9c20e8145125b49a486d284cbf6d8605bebba8ed4b5976fab59749c7f38a397b",
}


def stores(root):
    return [path.parent.name for path in (root.parent / "cache").glob("*/store.json")]


def test_a_run_of_an_older_version_finds_the_same_images_under_the_same_ids(root):
    tree(root)
    picture(root / "class03" / "again.png", 300)  # a copy within its class
    picture(root / "class04" / "@eaDir" / "0.png", 9000)  # a network storage's thumbnail
    for i in range(5):  # 12 bits in 16
        values = np.random.default_rng(i).integers(0, 4096, (14, 20), dtype=np.uint16)
        Image.fromarray(values).save(root / "class05" / f"deep{i}.png")
    (root / "class06" / "broken.png").write_bytes(b"no image")
    splits = load(root)
    assert {name: fingerprint(split) for name, split in splits.items()} == OLD
    assert [int(splits[name].images.sum()) for name in SPLITS] == [1789755, 550050, 549645]
    new = load(root, depth="auto", copies="leave_out", skip=["@eaDir"])
    assert not set(OLD.values()) & {fingerprint(split) for split in new.values() if "class03" in split.names}


def test_seed_ratios_and_the_spelling_of_the_path_share_one_store(root, monkeypatch):
    tree(root, classes=12)
    whole = load(root)
    (root.parent / "link").symlink_to(root)
    monkeypatch.chdir(root.parent)
    for changed in (
        {"seed": 1},
        {"ratios": [0.5, 0.25, 0.25]},
        {"path": "./images/../images"},
        {"path": "link"},
        {"path": f"{root}/"},
        {"strict": True},
        {"least": 3},
        {"copies": "leave_out"},
        {"allow_copies": True},
    ):
        data = folder(root, **changed) if "path" not in changed else replace(folder(root), root=changed["path"])
        pixels = {}
        for name in SPLITS:
            split = data.load(name)
            pixels |= {split.files[i]: split.images[i] for i in range(len(split.files))}
        for split in whole.values():
            assert all(torch.equal(pixels[file], split.images[i]) for i, file in enumerate(split.files))
    assert len(stores(root)) == 1
    load(root, size=16)
    assert len(stores(root)) == 2


def test_a_split_holds_its_own_images_alone_whether_in_memory_or_in_a_file(root, monkeypatch):
    tree(root, classes=12)
    small = load(root)
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    before = sorted(os.listdir(root.parent / "cache"))
    large = load(root)
    for name in SPLITS:
        assert torch.equal(small[name].images, large[name].images)
        assert len(large[name].images) == 5 * len(large[name].ids)
    assert sorted(os.listdir(root.parent / "cache")) == before  # the file has no name


def test_a_file_that_was_rewritten_with_the_same_size_and_time_is_read_again(root):
    tree(root)
    path = root / "class00" / "x.bmp"
    picture(path, 9000)
    seen = path.stat()
    before = {
        file: image for split in load(root).values() for file, image in zip(split.files, split.images, strict=True)
    }
    before = {file: image.clone() for file, image in before.items()}
    picture(path, 9001)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (seen.st_size, seen.st_mtime_ns)
    after = {
        file: image for split in load(root).values() for file, image in zip(split.files, split.images, strict=True)
    }
    assert [file for file, image in after.items() if not torch.equal(image, before[file])] == [
        os.path.join("class00", "x.bmp")
    ]


def test_folders_in_class_folders_are_remarked_on_at_every_start(root, caplog):
    for alphabet in range(6):
        for letter in range(3):
            picture(root / f"alphabet{alphabet}" / f"letter{letter}" / "0.png", 10 * alphabet + letter)
    for _ in range(2):
        caplog.clear()
        assert load_named(root) == {f"alphabet{i}": 3 for i in range(6)}
        assert (
            "6 class folders hold folders of their own, and all images below are the class's: alphabet0 (3 images in "
            "letter0, letter1, letter2), alphabet1 (3 images in"
        ) in caplog.text
    caplog.clear()
    tree(root.parent / "flat")
    load(root.parent / "flat")
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["@eaDir", "@EADIR", "#recycle", "$RECYCLE.BIN", "System Volume Information"])
def test_what_network_storage_and_systems_add_is_no_image_and_no_class(root, caplog, small, name):
    skip = list(small("data=folder").data.skip)
    tree(root)
    picture(root / "class00" / name / "0.png", 9000)
    picture(root / "class01" / "deep" / name / "deeper" / "0.png", 9001)
    picture(root / name / "0.png", 9002)
    assert load_named(root, skip=skip) == {f"class{c:02d}": 5 for c in range(10)}
    told = f"folders that data.skip names are left out: {name}, class00/{name}, class01/deep/{name}"
    assert told in caplog.text
    kept = load_named(root)
    assert (kept["class00"], kept["class01"], kept[name]) == (6, 6, 1)


NFC, NFD = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("Cat", "cat", "1 class names stand in two of train/ val/ test/: Cat (train) = cat (test). A class"),
        (NFC, NFD, r"1 class names stand in two of train/ val/ test/: Caf\xe9 (train) = Cafe\u0301 (test). A class"),
        ("STRASSE", "straße", "STRASSE (train) = straße (test)"),
    ],
)
def test_one_name_in_two_spellings_is_one_name(root, one, other, told):
    for k, split in enumerate(SPLITS):
        for c in range(2):
            for i in range(2):
                picture(root / split / f"{split}{c}" / f"{i}.png", 1000 * k + 10 * c + i)
    for k, place in enumerate((root / "train" / one, root / "test" / other)):
        picture(place / "0.png", 9000 + k)
        picture(place / "1.png", 9100 + k)
    assert one != other
    assert told in refusal(root)
    assert "1 class names stand in two splits" in load(root, allow_same_names=True)["test"].note
    (root / "test" / other).rename(root / "train" / other)  # two classes of one split leak nothing
    assert len(load(root)["train"].ids) == 4


@pytest.mark.slow
def test_a_run_may_be_gone_on_with_where_its_names_are_refused_now(root, small, tmp_path, monkeypatch):
    tree(root, images=4)
    words = ("data=folder", f"data.root={root}", "data.size=16", f"data.cache={tmp_path / 'cache'}", "task.way=2")
    train.run(small(*words, "task.train_way=2"), tmp_path / "run")
    again = small(*words, "task.train_way=2", "train.steps=8", f"resume={tmp_path / 'run'}")
    for key in ("allow_same_names", "allow_copies"):
        again.data[key] = True
    assert resume.load_resumable(read_config(again), tmp_path / "run")["state"]["step"] == 4
    again.data.seed = 1
    with pytest.raises(UserError, match=r"not data\.seed=1 \(the run has 0\)"):
        resume.load_resumable(read_config(again), tmp_path / "run")


def test_names_that_differ_are_no_one_name():
    assert len({one_name(name) for name in ("a", "ä", "b", "a ", "ａ")}) == 5


@pytest.mark.slow
def test_a_run_without_the_new_keys_goes_on_and_is_evaluated(root, small, tmp_path, command_line, monkeypatch):
    """Its episodes are those it had: with copies, with a network storage's thumbnails, and with a small test class."""
    monkeypatch.chdir(tmp_path)
    for k, split in enumerate(SPLITS):
        for c in range(5):
            for i in range(5):
                picture(root / split / f"{split}{c}" / f"{i}.png", 1000 * k + 10 * c + i)
    picture(root / "train" / "train0" / "again.png", 3)
    picture(root / "val" / "val0" / "@eaDir" / "0.png", 9000)
    picture(root / "test" / "small" / "0.png", 9001)
    words = ["data=folder", f"data.root={root}", "data.size=16", f"data.cache={tmp_path / 'cache'}", "train.steps=8"]
    older = [f"~data.{key}" for key in ("depth", "copies", "least", "skip")]
    whole, cut = small(*words, *older), small(*words, *older)
    small_class = root / "test" / "small"
    small_class.rename(root / "aside")  # an older version did not look at it
    train.run(whole, tmp_path / "whole")
    cut.train.steps = 4
    train.run(cut, tmp_path / "cut")
    (root / "aside").rename(small_class)
    code, said = command_line("train", f"resume={tmp_path / 'cut'}", "train.steps=8")
    assert code == 0, said
    assert "1 of the 6 test classes have fewer images: small (1)" in said
    assert "1 images occur more than once; support and query may share them" in said
    one, two = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    assert one["data"] == two["data"]
    assert all(torch.equal(one["net"][key], two["net"][key]) for key in one["net"])
    code, said = command_line("eval", f"run={tmp_path / 'cut'}", "eval.split=val")
    assert (code, "trained on: 1 images occur more than once" in " ".join(said.split())) == (0, True)
    with pytest.raises(UserError, match=r"^an episode needs 5 images a class .* small \(1\)"):  # a new one is refused
        train.run(small(*words), tmp_path / "new")
