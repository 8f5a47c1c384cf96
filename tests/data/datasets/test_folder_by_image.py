"""data=folder data.protocol=images: the same classes in each split, no image in two of them."""

import logging
import shutil

import pytest

from metalab.core.errors import UserError
from metalab.data.identity.class_ids import seen_classes, training_ids
from metalab.data.storage.store import NoSplit
from tests.data.folder import SPLITS, folder, picture, refusal, tree
from tests.data.pacs import photos, real


def by_image(root, **changed):
    return folder(root, **{"protocol": "images"} | changed)


def loaded(root, **changed):
    data = by_image(root, **changed)
    return {split: data.load(split) for split in SPLITS}


def refused(root, **changed):
    return refusal(root, protocol="images", **changed)


def files(splits):
    return {name: set(split.files) for name, split in splits.items()}


@real
def test_two_folders_of_photographs_are_split_by_images_class_by_class(root):
    photos(root, {"dog": 20, "horse": 7})
    splits = loaded(root, size=32)
    assert {name: split.count.tolist() for name, split in splits.items()} == {
        "train": [13, 5],
        "val": [3, 1],
        "test": [4, 1],
    }
    assert all(split.names == ["dog", "horse"] and split.by_image for split in splits.values())
    assert len({tuple(split.ids) for split in splits.values()}) == 1
    here = files(splits)
    assert sum(map(len, here.values())) == len(set.union(*here.values())) == 27
    assert len({image for split in splits.values() for image in split.image_ids}) == 27
    for split in splits.values():  # images and names stand in one order
        for file, first in zip(split.files, split.images, strict=True):
            assert file.startswith("dog" if split.files.index(file) < split.count[0] else "horse")
            assert first.shape == (3, 32, 32)
    assert files(loaded(root, size=32)) == here
    assert files(loaded(root, size=32, seed=1))["test"] != here["test"]


def test_the_pixels_of_a_split_are_those_of_its_files(root):
    tree(root, classes=3, images=6)
    whole = by_image(root, ratios=[0, 0, 1]).load("test")
    pixels = dict(zip(whole.files, whole.images, strict=True))
    for split in loaded(root).values():
        for file, image in zip(split.files, split.images, strict=True):
            assert image.equal(pixels[file])


def test_train_val_and_test_folders_hold_the_same_classes(root):
    for number, split in enumerate(SPLITS):
        tree(root / split, classes=2, images=3 + number, offset=10_000 * number)
    splits = loaded(root)
    assert {name: split.count.tolist() for name, split in splits.items()} == {
        "train": [3, 3],
        "val": [4, 4],
        "test": [5, 5],
    }
    assert all(file.startswith(name) for name, split in splits.items() for file in split.files)
    assert splits["train"].ids == splits["test"].ids
    assert "held out" not in splits["train"].note
    shutil.rmtree(root / "test" / "class01")
    picture(root / "test" / "other" / "0.png", 5)
    text = refused(root)
    assert "has the same classes in train/ and val/ and test/, and 2 class folders of" in text
    assert "class01 (train and val), other (test)" in text


def test_of_train_and_test_alone_validation_images_are_split_off_and_said(root):
    tree(root / "train", classes=2, images=10)
    tree(root / "test", classes=2, images=3, offset=10_000)
    splits = loaded(root)
    assert {name: split.count.tolist() for name, split in splits.items()} == {
        "train": [8, 8],
        "val": [2, 2],
        "test": [3, 3],
    }
    assert all(file.startswith("train") for file in splits["val"].files)
    assert not files(splits)["train"] & files(splits)["val"]
    assert "4 of the 20 images of train/ are held out for validation" in splits["train"].note
    assert "held out" not in splits["test"].note
    assert files(loaded(root, seed=1))["val"] != files(splits)["val"]
    assert files(loaded(root, seed=1))["test"] == files(splits)["test"]


def test_what_has_too_few_classes_for_a_class_split_says_what_to_type(root):
    tree(root, classes=2)
    text = refusal(root)
    assert "has 2 class folders with images; splitting them by data.ratios=[0.64, 0.16, 0.2] needs at least 6" in text
    assert "metalab train data=folder data.root=FOLDER data.protocol=images algo=baseline\n" in text
    assert (
        "metalab predict run=null backbone=torchvision backbone.name=... backbone.weights=... support=FOLDER "
        "images=FOLDER\n"
    ) in text
    shutil.rmtree(root / "class01")
    assert "has 1 class folders with images: a classifier needs 2" in refused(root)
    assert "predict" not in refusal(root)


def test_train_and_test_of_one_name_say_what_to_type(root):
    tree(root / "train", classes=2)
    tree(root / "test", classes=2, offset=10_000)
    text = refusal(root)
    assert "none in val/: add these" in text
    assert "or type data.protocol=images algo=baseline for a plain classifier of the same classes" in text
    tree(root / "val", classes=2, offset=20_000)
    text = refusal(root)
    assert "2 class names stand in two of train/ val/ test/: class00 (train and val and test)" in text
    assert "on other images, type data.protocol=images algo=baseline, a plain classifier" in text


def test_a_test_folder_alone_says_how_to_test_on_all_of_it(root):
    tree(root / "test", classes=2)
    assert "none in train/: add these" in refused(root)
    assert f"type data.root={root / 'test'} data.ratios=[0,0,1]" in refused(root)
    assert len(by_image(root / "test", ratios=[0, 0, 1]).load("test").images) == 10
    with pytest.raises(NoSplit, match=r"data\.ratios=\[0, 0, 1\] leaves no image for val: type a share above 0"):
        by_image(root / "test", ratios=[0, 0, 1]).load("val")


def test_a_class_of_too_few_images_is_named_and_data_least_leaves_it_out(root):
    tree(root, classes=3, images=4)
    for i in (1, 2, 3):
        (root / "class01" / f"{i}.png").unlink()
    text = refused(root)
    assert text.startswith("1 classes have too few images: class01 (1); 3 are needed, one for each split that is used.")
    assert "with data.least=3" in text
    splits = loaded(root, least=3)
    assert splits["test"].names == ["class00", "class02"]
    assert "1 classes of fewer than data.least=3 images are left out" in splits["test"].note


def test_a_copy_in_two_folders_is_refused_or_noted(root):
    tree(root / "train", classes=2, images=5)
    tree(root / "test", classes=2, images=3, offset=10_000)
    shutil.copy(root / "train" / "class00" / "0.png", root / "test" / "class00" / "copy.png")
    text = refused(root)
    assert text.startswith("1 images stand in two splits: train/class00/0.png = test/class00/copy.png.")
    assert "1 images stand in two splits" in by_image(root, allow_copies=True).load("test").note


@pytest.mark.parametrize("copies", ["keep", "leave_out"])
def test_a_copy_never_stands_in_another_split_than_its_original(root, copies):
    tree(root, classes=2, images=9)
    for i in range(6):
        shutil.copy(root / "class00" / f"{i}.png", root / "class00" / f"{i}copy.png")
        shutil.copy(root / "class00" / f"{i}.png", root / "class01" / f"{i}theirs.png")
    for seed in range(5):
        splits = loaded(root, copies=copies, seed=seed)
        ids = [set(split.image_ids) for split in splits.values()]
        assert sum(map(len, ids)) == len(set.union(*ids)) == 18
    assert sum(len(split.images) for split in splits.values()) == (30 if copies == "keep" else 24)


def test_a_group_stands_in_one_split_alone_and_torn_folders_are_refused(root):
    for c in range(2):
        for i in range(24):
            picture(root / f"class{c}" / f"video{i // 3}_{i}.png", 100 * c + i)
    for seed in range(5):
        splits = loaded(root, group=r"class\d/video(\d+)_", copies="keep", seed=seed)
        videos = [{file.split("video")[1].split("_")[0] for file in split.files} for split in splits.values()]
        assert sum(map(len, videos)) == len(set.union(*videos)) == 8
        assert all(split.count.min() > 0 and split.group is None for split in splits.values())
    text = refused(root, group=r"(class\d)")
    assert text.startswith(
        r"2 classes have too few groups of images by data.group=(class\d): class0 (1), class1 (1); 3"
    )
    (root / "train").mkdir()
    for c in range(2):
        shutil.move(root / f"class{c}", root / "train")
        picture(root / "test" / f"class{c}" / "video1_99.png", 999 + c)
    assert "groups stand in two splits: train/class0/video1_" in refused(root, group=r"video(\d+)_")


def test_folds_test_each_image_once_and_never_train_on_it(root):
    tree(root, classes=3, images=7)
    tested = []
    for fold in range(5):
        splits = loaded(root, folds=5, fold=fold)
        here = files(splits)
        assert sum(map(len, here.values())) == len(set.union(*here.values())) == 21
        assert all(split.names == ["class00", "class01", "class02"] for split in splits.values())
        assert splits["val"].count.tolist() == [1, 1, 1]
        tested += splits["test"].files
    assert len(tested) == len(set(tested)) == 21


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"folds": 8},
            r"2 classes have too few images: class00 \(7\), class01 \(7\); 8 are needed, one for each fold. .* fewer",
        ),
        ({"folds": 1}, r"data\.folds=1: expected 2 or more"),
        ({"folds": 5, "fold": 5}, r"data\.fold=5: expected 0 to 4"),
        ({"fold": 1}, r"data\.fold=1: there are no folds"),
        ({"folds": 5, "protocol": "classes"}, r"data\.folds=5: folds are of images; type data\.protocol=images"),
    ],
)
def test_folds_that_there_cannot_be_are_refused(root, changed, said):
    tree(root, classes=2, images=7)
    with pytest.raises(UserError, match=said):
        by_image(root, **changed).load("test")


def test_folds_of_folders_that_say_what_is_tested_are_refused(root):
    tree(root / "train", classes=2)
    tree(root / "test", classes=2, offset=10_000)
    assert "data.folds=3 tests each image once, and train/ and test/ say which are tested" in refused(root, folds=3)


def test_unreadable_images_are_left_out_and_said_once_for_all_splits(root, caplog):
    tree(root, classes=2, images=6)
    (root / "class00" / "broken.jpg").write_bytes(b"no image")
    data = by_image(root)
    with caplog.at_level(logging.WARNING, "metalab.data"):
        splits = {split: data.load(split) for split in SPLITS}
    assert "1 of the 13 images cannot be read and are left out: class00/broken.jpg" in caplog.text
    assert sum(len(split.images) for split in splits.values()) == 12
    assert all("1 of 13 images cannot be read" in split.note for split in splits.values())
    assert {split: data.unreadable(split) for split in SPLITS} == {split: ["class00/broken.jpg"] for split in SPLITS}


def test_another_persons_class_of_the_same_name_is_known_by_its_images_alone(root, tmp_path):
    tree(root, classes=2, images=6)
    tree(tmp_path / "theirs", classes=2, images=6, offset=10_000)
    trained = training_ids(by_image(root).load("train"))
    theirs = by_image(tmp_path / "theirs", ratios=[0, 0, 1])
    assert theirs.load("test").ids == by_image(root).load("test").ids
    assert seen_classes(theirs.load("test"), trained) == []
    assert seen_classes(by_image(root).load("val"), trained) == []
    assert seen_classes(by_image(root).load("train"), trained) == ["class00", "class01"]
    file = next(file for file in by_image(root).load("train").files if file.startswith("class01"))
    shutil.copy(root / file, tmp_path / "theirs" / "class01" / "copied.png")
    theirs = by_image(tmp_path / "theirs", ratios=[0, 0, 1])
    assert seen_classes(theirs.load("test"), trained) == ["class01"]


def test_two_folds_need_four_images_a_class_and_three_folds_three(root):
    tree(root, classes=2, images=3)
    text = refused(root, folds=2)
    assert text.startswith(
        "2 classes have too few images: class00 (3), class01 (3); 4 are needed, two for each fold. Add"
    )
    assert by_image(root, folds=3).load("val").count.tolist() == [1, 1]
    picture(root / "class00" / "3.png", 77)
    picture(root / "class01" / "3.png", 78)
    assert by_image(root, folds=2).load("val").count.tolist() == [1, 1]


def test_where_no_two_classes_are_left_it_says_so(root):
    tree(root, classes=3, images=5)
    assert refused(root, least=6).startswith(
        "0 classes have images that can be used, and a classifier needs 2: add images, or"
    )
    for file in (root / "class01").iterdir():
        file.write_bytes(b"")
    shutil.rmtree(root / "class02")
    assert refused(root) == "1 classes have images that can be used, and a classifier needs 2: add images"


def test_a_train_folder_with_one_image_of_a_class_has_none_for_validation(root):
    tree(root / "train", classes=2, images=4)
    tree(root / "test", classes=2, images=4, offset=10_000)
    for i in (1, 2, 3):
        (root / "train" / "class01" / f"{i}.png").unlink()
    text = refused(root)
    assert text.startswith("1 classes have too few images: class01 (1); 2 are needed, one for each of train, val.")
    assert text.endswith("Add images, or leave these classes out")
