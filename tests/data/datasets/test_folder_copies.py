"""Images that their class has already: never on both sides of an episode, or a note on every result."""

import shutil

import pytest
import torch

from metalab.data.datasets.union import Union
from metalab.data.identity.class_ids import fingerprint
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.evaluation.pixel_baseline import pixel_nearest_neighbour
from tests.data.folder import SPLITS, folder, load, picture, tree


def twice(root, classes=20, images=10):
    """Write classes of noise, in which nothing can be recognised, each image stored twice."""
    tree(root, classes, images)
    for path in list(root.rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))


def accuracy(split) -> tuple[float, float]:
    return pixel_nearest_neighbour(EpisodeSampler(split, 5, 1, 9, 50, 0, "test", torch.device("cpu")), 1000)


def test_noise_that_is_stored_twice_is_not_recognised(root):
    twice(root)
    both = folder(root, size=8, ratios=[0.4, 0.2, 0.4])
    kept, found = both.load("test"), folder(root, size=8, ratios=[0.4, 0.2, 0.4], copies="leave_out").load("test")
    assert kept.note == "80 images occur more than once; support and query may share them"
    assert found.note == "80 images are copies of others of their class and are left out"
    assert (kept.count.tolist(), found.count.tolist()) == ([20] * 8, [10] * 8)
    assert fingerprint(kept) != fingerprint(found)
    assert abs(accuracy(found)[0] - 0.2) < 0.015  # chance
    assert accuracy(kept)[0] > 0.23  # 25.2 % was seen


def test_what_is_left_out_is_said_at_every_start_and_stands_on_every_result(root, caplog):
    tree(root)
    picture(root / "class05" / "again.png", 500)
    splits = load(root, copies="leave_out")
    home = next(name for name in SPLITS if "class05" in splits[name].names)
    for _ in range(2):  # decoded, and from the store
        caplog.clear()
        splits = load(root, copies="leave_out")
        assert "1 images are copies of others of their class and are left out (data.copies=keep keeps them): " in (
            caplog.text
        )
        assert "class05/again.png = class05/0.png" in caplog.text
        notes = {name: split.note for name, split in splits.items() if split.note}
        assert notes == {home: "1 images are copies of others of their class and are left out"}
    with_it = folder(root).unrefused(home)  # the report has it all
    assert "class05/again.png" in with_it.files


def test_the_pixels_stay_those_of_their_files(root):
    tree(root)
    picture(root / "class03" / "00.png", 300)  # a copy that comes before its like
    before, after = load(root), load(root, copies="leave_out")
    for name in SPLITS:
        old = dict(zip(before[name].files, before[name].images, strict=True))
        for file, image in zip(after[name].files, after[name].images, strict=True):
            assert torch.equal(old[file], image)
        assert before[name].ids == after[name].ids  # a class is known by all its images


def test_an_image_of_two_classes_of_a_split_stands_on_every_result(root):
    for split in SPLITS:
        tree(root / split, classes=3, offset=10_000 * len(split))
    for split in SPLITS:
        for c in range(3):
            (root / split / f"class{c:02d}").rename(root / split / f"{split}{c}")
    picture(root / "val" / "val1" / "x.png", 30_000)
    assert [load(root)[name].note for name in SPLITS] == ["", "1 images stand in two val classes", ""]


def test_a_union_and_drawn_ways_leave_them_out_as_well(root, tmp_path):
    twice(root, images=4)
    tree(tmp_path / "other", offset=50_000)
    node = {
        "_target_": "metalab.data.Folder",
        "cache": str(tmp_path / "cache"),
        "size": 12,
        "channels": 3,
    }
    node |= {"ratios": [0.6, 0.2, 0.2], "seed": 0, "strict": False, "copies": "leave_out"}
    members = {"a": node | {"root": str(root)}, "b": node | {"root": str(tmp_path / "other")}}
    joined = Union(members, {}, 12, 3).load("train")
    assert joined.note == "a: 48 images are copies of others of their class and are left out"
    assert joined.count.tolist() == [4] * 12 + [5] * 6
    assert joined.class_sizes["test"] == {name: 4 for name in joined.class_sizes["test"] if name[0] == "a"} | {
        name: 5 for name in joined.class_sizes["test"] if name[0] == "b"
    }


@pytest.mark.parametrize("copies", ["keep", "leave_out"])
def test_images_without_copies_give_the_same_split_either_way(root, copies):
    tree(root)
    plain, other = load(root), load(root, copies=copies)
    assert [fingerprint(plain[name]) for name in SPLITS] == [fingerprint(other[name]) for name in SPLITS]
