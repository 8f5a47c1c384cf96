"""Episodes that a split cannot give are refused."""

import pytest

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from tests.data.made import make, make_split


def refusal(split, **more):
    with pytest.raises(UserError) as error:
        make(split, **more)
    return str(error.value)


def test_too_few_classes():
    text = refusal(make_split(classes=3), stream="test")
    assert text == "way=5 but the test split has 3 classes: type task.way=3 or less, or add classes"
    assert "the train split has 3 classes: type task.train_way=3 or less" in refusal(make_split(classes=3))


def test_too_few_images():
    split = make_split(images=[20, 20, 20, 20, 20, 20, 20, 15, 20, 19])
    text = refusal(split, shot=5, query=15, stream="test")
    assert text.startswith("class 7 (name7) of the test split has 15 images, 5-shot with 15 queries needs 20; ")
    assert "2 of 10 classes have too few: type task.query=10 or less, or add images" in text
    assert "type task.train_query=10 or less" in refusal(split, shot=5, query=15)


def test_too_few_images_for_the_shots():
    text = refusal(make_split(images=5), shot=5, query=15, stream="val")
    assert "has 5 images, 5-shot with 15 queries needs 20; 12 of 12" in text
    assert "type a task.shot and a task.query that add up to 5 or less" in text
    text = refusal(make_split(images=5), shot=5, query=15, stream="running")
    assert "of the train split" in text
    assert "type a task.train_shot and a task.train_query that add up to 5 or less" in text
    assert "one image cannot be both support and query" in refusal(make_split(images=1), shot=1, query=1)


def test_too_few_images_or_classes_for_the_unlabelled():
    text = refusal(make_split(images=9), unlabelled=5)
    assert "2-shot with 3 queries and 5 unlabelled needs 10; 12 of 12 classes have too few" in text
    assert "type task.unlabelled=4 or less" in text
    text = refusal(make_split(images=4), unlabelled=1)
    assert "type task.unlabelled=0 and task.train_query=2 or less" in text
    text = refusal(make_split(), unlabelled=1, distractors=8)
    assert text.startswith(
        "way=5 and 8 distractors are 13 classes, but the train split has 12: type task.distractors=7"
    )
    assert "task.distractors=1 without unlabelled images: type task.unlabelled=5" in refusal(
        make_split(), distractors=1
    )


def test_turns_need_squares():
    split = make_split()
    wide = Split(split.images[..., :3, :], split.first, split.count, split.ids, split.names, random_turns=True)
    assert "quarter turns need square images, and these are 3 x 4 pixels" in refusal(wide)
    upright = Split(split.images[..., :3, :], split.first, split.count, split.ids, split.names)
    assert make(upright)(0).support.x.shape == (4, 10, 1, 3, 4)
