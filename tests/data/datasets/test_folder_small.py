"""Classes that are too small for the episodes: all of them told before training, or left out by data.least."""

import pytest

from metalab.core.errors import UserError
from metalab.data.sampling.episode_size import EpisodeSize, too_small
from metalab.training import train
from tests.data.folder import SPLITS, folder, load, picture, refusal


@pytest.fixture
def sized(root):
    """Classes train0.. val0.. test0.. of eight images, but train1 (1), train2 (3), val5 (2) and test4 (1)."""
    counts = {"train1": 1, "train2": 3, "val5": 2, "test4": 1}
    for k, split in enumerate(SPLITS):
        for c in range(8):
            for i in range(counts.get(f"{split}{c}", 8)):
                picture(root / split / f"{split}{c}" / f"{i}.png", 10_000 * k + 100 * c + i, (12, 12))
    return root


WORDS = (
    "data=folder",
    "data.size=16",
    "data.channels=1",
    "backbone.filters=4",
    "task.query=3",
    "task.shot=2",
    "task.train_query=3",
)


def test_all_that_are_too_small_in_all_splits_are_listed_before_training(sized, small, tmp_path, caplog):
    caplog.set_level("INFO", "metalab")
    cfg = small(*WORDS, f"data.root={sized}", f"data.cache={tmp_path / 'cache'}")
    with pytest.raises(UserError) as error:
        train.run(cfg, tmp_path / "run")
    assert str(error.value) == (
        "an episode needs 5 images a class (2-shot with 3 queries). "
        "2 of the 8 train classes have fewer images: train1 (1), train2 (3); "
        "1 of the 8 val classes have fewer images: val5 (2); 1 of the 8 test classes have fewer images: test4 (1): "
        "one image cannot be both support and query, or data.least=5 to leave the smaller classes out, or add images"
    )
    assert not (tmp_path / "run").exists()
    cfg = small(*WORDS, f"data.root={sized}", f"data.cache={tmp_path / 'cache'}", "data.least=5")
    train.run(cfg, tmp_path / "run")
    assert "2 classes of fewer than data.least=5 images are left out" in caplog.messages


def test_least_leaves_them_out_of_all_splits_with_a_note(sized, caplog):
    splits = load(sized, least=5)
    assert [len(splits[name].ids) for name in SPLITS] == [6, 7, 7]
    assert "2 classes of fewer than data.least=5 images are left out of train: train1 (1), train2 (3)" in caplog.text
    assert [splits[name].note for name in SPLITS] == [
        f"{n} classes of fewer than data.least=5 images are left out" for n in (2, 1, 1)
    ]
    for split in splits.values():  # the pixels stay those of their files
        whole = folder(sized).load(split.names[0].rstrip("01234567"))
        pixels = dict(zip(whole.files, whole.images, strict=True))
        assert all((pixels[file] == image).all() for file, image in zip(split.files, split.images, strict=True))
    assert [name for name in folder(sized).unrefused("train").names if name in ("train1", "train2")]


def test_least_takes_no_class_into_another_split(root):
    for c in range(20):
        for i in range(2 + c % 3):
            picture(root / f"class{c:02d}" / f"{i}.png", 100 * c + i)
    before, after = load(root), load(root, least=4)
    assert sum(len(after[name].ids) for name in SPLITS) == 6
    assert all(set(after[name].ids) <= set(before[name].ids) for name in SPLITS)


def test_a_least_that_nothing_has(sized):
    assert refusal(sized, least=9) == "data.least=9 leaves no class for train: type a smaller one, or add images"
    assert refusal(sized, least=0) == "data.least=0: expected 1 or more images a class; type data.least=1"


def test_too_few_classes_of_a_split_are_told_and_what_the_advice_is():
    held = {"train": dict.fromkeys("abcdef", 20), "val": dict.fromkeys("ghijk", 9), "test": dict.fromkeys("lm", 20)}
    wanted = {name: EpisodeSize(5, 1, 15) for name in SPLITS}
    assert too_small(held, wanted, False) == (
        "an episode needs 16 images a class (1-shot with 15 queries). 5 of the 5 val classes have fewer images: g (9), "
        "h (9), i (9), j (9), k (9); test has 2 classes, and an episode 5: type task.query=8 or less, or add images"
    )
    assert "test has 2" not in too_small(held, wanted, True)  # a union's
    wanted |= {"train": EpisodeSize(5, 1, 30), "val": EpisodeSize(5, 1, 5), "test": EpisodeSize(2, 1, 5)}
    text = too_small(held, wanted, False)
    assert text.startswith("an episode needs 31 images a class (1-shot with 30 queries) or 6 images a class (1-shot wi")
    assert text.endswith(": type task.train_query=19 or less, or add images")
    assert too_small(held, {"train": EpisodeSize(5, 1, 15), "test": EpisodeSize(2, 5, 15)}, False) == ""
    assert too_small({}, wanted, False) == ""
