"""A net knows again what it was trained on: a class by its id, one of the user's own by any of its images."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metalab.config.instantiate import build
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.class_lists import class_list
from metalab.data.datasets.drawings.omniglot import Omniglot
from metalab.data.datasets.folder import Folder
from metalab.data.datasets.photos.miniimagenet import MiniImageNet
from metalab.data.datasets.union import Union
from metalab.data.identity.class_ids import refuse_copies, refuse_twins, seen_classes, seen_images, training_ids
from metalab.data.sampling.class_order import Labels, relabelled
from metalab.evaluation import evaluate
from metalab.training import train
from tests.data.miniimagenet import csv_and_images, jpeg, learn2learn_pickles, packed_npz, pixels, split_folders
from tests.data.omniglot import CHARACTERS, write_zips

PIXELS = (learn2learn_pickles,)


def split(ids: list[str], image_ids: list[str]) -> Split:
    """Return classes of two images each, called by the last letter of their ids."""
    two = torch.full((len(ids),), 2)
    images = torch.zeros(2 * len(ids), 1, 8, 8, dtype=torch.uint8)
    return Split(images, two.cumsum(0) - two, two, ids, [each[-1] for each in ids], image_ids=image_ids)


def test_a_class_is_known_by_its_id_or_by_one_image():
    published = split(["cub:a", "cub:b", "cub:b"], [])
    assert seen_classes(published, training_ids(split(["cub:b", "cub:c"], []))) == ["cub:b"]
    mine = split(["folder:1a", "folder:2b", "folder:3c"], [f"image:{i}" for i in range(6)])
    assert training_ids(mine) == {*mine.ids, *mine.image_ids}
    other = split(["folder:9x", "folder:3c"], ["image:3", "image:7", "image:8", "image:9"])
    assert seen_classes(mine, training_ids(other)) == ["b", "c"]
    assert seen_classes(mine, {"image:33", "cub:a"}) == []
    both = split(["cub:b", "folder:1a"], ["", "", "image:0", "image:1"])  # as a union has it
    assert training_ids(both) == {"cub:b", "folder:1a", "image:0", "image:1"}
    assert seen_classes(both, {"cub:b", "image:1"}) == ["a", "cub:b"]
    assert seen_classes(both, {"cub:c", "image:9"}) == []


def test_a_benchmarks_images_are_known_among_ones_own_and_the_reverse_but_not_in_another_benchmark():
    mine = split(["folder:1a", "folder:2b"], [f"image:{i}" for i in range(4)])
    cub = split(["cub:c", "cub:d"], [f"published:{i}" for i in range(3, 7)])
    assert seen_classes(mine, training_ids(cub)) == ["b"]
    assert seen_classes(cub, training_ids(mine)) == ["cub:c"]
    other = split(["dtd:e", "dtd:f"], cub.image_ids)  # CIFAR-FS has copies across its own splits
    assert seen_classes(other, training_ids(cub)) == []


@pytest.mark.parametrize("lay_out", [split_folders, csv_and_images, packed_npz, learn2learn_pickles])
def test_files_of_a_benchmark_that_was_trained_on_are_known_in_a_folder(tmp_path, lay_out):
    lay_out(tmp_path / "mini")
    benchmark = MiniImageNet(str(tmp_path / "mini"), str(tmp_path / "cache"))
    by_split = {name: class_list(f"miniimagenet_ravi_{name}") for name in ("train", "val", "test")}
    sources = {"train": by_split["val"][:2], "val": by_split["val"][2:4]}
    sources["test"] = [by_split["test"][0], by_split["train"][0]]
    for name, wnids in sources.items():
        for k, wnid in enumerate(wnids):
            (tmp_path / "copy" / name / f"{name}{k}").mkdir(parents=True)
            for i in range(2):
                file = tmp_path / "copy" / name / f"{name}{k}" / f"{i}.{'png' if lay_out in PIXELS else 'jpg'}"
                if lay_out in PIXELS:  # their images are arrays
                    Image.fromarray(pixels(wnid, i)).save(file)
                else:
                    file.write_bytes(jpeg(wnid, i, quality=75 if lay_out is packed_npz else 95))
    own = Folder(str(tmp_path / "copy"), str(tmp_path / "cache"), 32, 1, [0.64, 0.16, 0.2], 0, False)
    trained = training_ids(benchmark.load("train"))
    assert seen_classes(own.load("test"), trained) == ["test1"]
    assert seen_classes(own.load("val"), trained) == []
    assert seen_classes(benchmark.load("val"), training_ids(own.load("train"))) == sorted(
        f"imagenet:{w}" for w in sources["train"]
    )
    assert seen_classes(benchmark.load("test"), trained) == []


def test_a_store_without_digests_is_as_valid_as_it_was(tmp_path, caplog):
    split_folders(tmp_path / "mini")
    words = (str(tmp_path / "mini"), str(tmp_path / "cache"))
    whole = MiniImageNet(*words).load("train")
    assert len(whole.image_ids) == len(whole.images)
    meta = next((tmp_path / "cache").glob("*/store.json"))
    held = json.loads(meta.read_text())
    for kept in held["splits"].values():
        del kept["image_ids"]
    meta.write_text(json.dumps(held))
    caplog.clear()
    with caplog.at_level("INFO", "metalab.data"):
        old = MiniImageNet(*words).load("train")
    assert "Preparing" not in caplog.text
    assert training_ids(old) == set(whole.ids)


def test_copies_in_two_splits_are_refused_with_their_names_or_noted():
    images = {
        "train": (["1", "2", "2"], ["a/1", "a/2", "b/2"]),
        "test": (["3", "2"], ["c/3", "c/2"]),
        "val": (["4"], ["d/4"]),
    }
    with pytest.raises(
        UserError, match=r"^1 images stand in two splits: a/2 = c/2\. .*or type data\.allow_copies=true"
    ):
        refuse_copies(images, False)
    assert refuse_copies(images, True) == "1 images stand in two splits"
    assert refuse_copies({"train": images["train"], "val": images["val"]}, False) == ""


def test_class_folders_with_the_same_images_are_refused():
    refuse_twins({"train": (["1", "2"], ["a", "b"]), "val": (["3"], ["c"])})
    with pytest.raises(UserError, match=r"^the class folders b \(train\) and c \(val\) hold the same images"):
        refuse_twins({"train": (["1", "2"], ["a", "b"]), "val": (["2"], ["c"])})


def test_a_union_keeps_the_identity_of_its_images(tmp_path):
    draw(tmp_path / "mine", 0)
    folder = {
        "_target_": "metalab.data.Folder",
        "root": str(tmp_path / "mine"),
        "cache": str(tmp_path / "cache"),
    }
    folder |= {"size": 16, "channels": 1, "ratios": [0.64, 0.16, 0.20], "seed": 0, "strict": False}
    tiny = {"_target_": "tiny_parts.Tiny", "images": 4, "size": 16, "channels": 1, "seed": 0, "absent": ""}
    train = Union({"mine": folder, "tiny": tiny}, {}, 16, 1).load("train")
    assert seen_classes(train, {train.image_ids[5]}) == ["mine/train1"]
    assert train.image_ids[24:] == [""] * (len(train.images) - 24)


def draw(root: Path, seed: int) -> None:
    """Write 6 classes of 4 pictures of noise to each of train/ val/ test/."""
    noise = np.random.default_rng(seed)
    for name in ("train", "val", "test"):
        for k in range(6):
            (root / name / f"{name}{k}").mkdir(parents=True)
            for i in range(4):
                pixels = noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name / f"{name}{k}" / f"{i}.png")


def test_one_photo_that_was_trained_on_is_found_in_another_folder_under_another_name(tmp_path, small):
    draw(tmp_path / "mine", 0)
    words = ("data=folder", f"data.root={tmp_path / 'mine'}", f"data.cache={tmp_path / 'cache'}", "data.size=16")
    words += (
        "task.query=2",
        "train.steps=1",
        "train.val_every=1",
        "train.val_episodes=2",
        "eval.episodes=2",
        "eval.bn=batch",
    )
    cfg = small(*words)
    train.run(cfg, tmp_path / "run")
    evaluate.run([(tmp_path / "run", cfg)], tmp_path / "out")
    draw(tmp_path / "other", 1)
    cfg.data.root = str(tmp_path / "other")
    evaluate.run([(tmp_path / "run", cfg)], tmp_path / "out")
    shutil.copy(tmp_path / "mine" / "train" / "train3" / "2.png", tmp_path / "other" / "test" / "test4" / "new.png")
    with pytest.raises(
        UserError, match=r"was trained on 1 of the 6 classes of the test split: test4\. Their accuracy says"
    ):
        evaluate.run([(tmp_path / "run", cfg)], tmp_path / "out")


def test_a_folder_with_an_image_in_two_splits_is_refused_every_time_until_it_is_allowed(tmp_path, small):
    draw(tmp_path / "mine", 0)
    shutil.copy(tmp_path / "mine" / "train" / "train3" / "2.png", tmp_path / "mine" / "val" / "val0" / "new.png")
    words = ("data=folder", f"data.root={tmp_path / 'mine'}", f"data.cache={tmp_path / 'cache'}", "data.size=16")
    for _ in range(2):
        with pytest.raises(UserError, match=r"train/train3/2\.png = val/val0/new\.png"):
            build(small(*words).data, "data").load("test")
    assert (
        build(small(*words, "data.allow_copies=true").data, "data").load("test").note == "1 images stand in two splits"
    )


def test_drawings_given_as_a_folder_are_known_and_other_images_are_not(tmp_path):
    write_zips(tmp_path, CHARACTERS)
    train = Omniglot(str(tmp_path), str(tmp_path / "cache")).load("train")
    assert len(train.image_ids) == len(train.images)
    noise = np.random.default_rng(0)
    for k, name in enumerate(sorted(set(train.ids))[:6]):
        home = tmp_path / "mine" / ("train", "val", "test")[k // 2] / f"{k}"
        home.mkdir(parents=True)
        for file in (file for file in train.files if f"/{name.removeprefix('omniglot:')}/" in file):
            with zipfile.ZipFile(tmp_path / f"{file.split('/')[0]}.zip") as archive:
                (home / Path(file).name).write_bytes(archive.read(file))
            if k % 2:  # images of nobody's
                Image.fromarray(noise.integers(0, 256, (105, 105), dtype=np.uint8)).save(home / Path(file).name)
        assert len(list(home.iterdir())) == 2
    mine = Folder(str(tmp_path / "mine"), str(tmp_path / "cache"), 28, 1, [0.6, 0.2, 0.2], 0, True)
    assert [seen_classes(mine.load(split), training_ids(train)) for split in ("train", "val", "test")] == [
        ["0"],
        ["2"],
        ["4"],
    ]


def test_a_class_of_domains_is_known_by_its_name_where_classes_are_split():
    tested = split(["folder:named:a", "folder:named:b"], ["image:0", "image:1", "image:2", "image:3"])
    trained = {"folder:named:b", "image:7"}  # of other images: those of a source domain
    assert seen_classes(tested, trained) == ["b"]
    assert seen_classes(replace(tested, by_image=True), trained) == []


def test_a_class_is_known_by_its_id_in_another_domain():
    domains = replace(split(["mnist:a", "mnist:b"], []), aliases=["usps:a", "usps:b", "svhn:a", "svhn:b"])
    assert seen_classes(domains, {"usps:b"}) == seen_classes(domains, {"svhn:b"}) == ["mnist:b"]
    assert seen_classes(domains, {"usps:c", ""}) == []
    relabelled_ = relabelled(domains, Labels(["mnist:b", "mnist:c", "mnist:a"], ["b", "c", "a"]))
    assert relabelled_.aliases == ["usps:b", "", "usps:a", "svhn:b", "", "svhn:a"]
    assert seen_classes(relabelled_, {"usps:a"}) == ["mnist:a"]
    assert "" not in training_ids(relabelled_)


def test_a_benchmarks_image_that_was_trained_on_is_known_under_another_seed_and_its_copy_is_not():
    files = ["x/a/0.png", "x/a/1.png", "x/b/0.png", "x/b/1.png"]
    trained = replace(split(["pacs:a", "pacs:b"], [f"published:{i}" for i in range(4)]), files=files, by_image=True)
    other = replace(trained, image_ids=["published:1", "published:3", "published:8", ""])
    other = replace(other, files=["domain/x/a/1.png", "x/b/7.png", "x/b/0.png", "x/b/9.png"])  # the second is a copy
    assert seen_images(other, training_ids(trained)) == [True, False, False, False]
    unplaced = training_ids(replace(trained, image_ids=[""] * 4))  # as bagging leaves what it did not draw
    assert seen_images(other, unplaced) == [False] * 4
    by_class = replace(trained, by_image=False)
    assert training_ids(by_class) == {*trained.ids, *trained.image_ids}
