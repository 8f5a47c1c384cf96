"""data=folder data.labels=split_zhou_NAME.json: the published lists of CoOp, without columns."""

import json
from pathlib import Path

import pytest

from metalab.core.errors import UserError
from metalab.data.formats.split_lists import split_list
from tests.data.folder import SPLITS, folder, load, picture, refusal

IMAGES = {"train": 4, "val": 2, "test": 3}


def listed(root: Path, splits=SPLITS) -> dict[str, list[tuple[str, int, str]]]:
    """Write pictures in folders that are named as no class is, and their lists."""
    held: dict[str, list[tuple[str, int, str]]] = {split: [] for split in splits}
    for k, name in enumerate(("black bear", "ant")):
        numbers = iter(range(9))
        for split in splits:
            for i in (next(numbers) for _ in range(IMAGES[split])):
                picture(root / f"c{k}" / f"{i}.png", 100 * k + i)
                held[split].append((f"c{k}/{i}.png", k, name))
    (root / "split_zhou_Own.json").write_text(json.dumps(held))
    return held


def test_each_split_has_the_images_of_its_list(tmp_path):
    held = listed(tmp_path / "r")
    found = load(tmp_path / "r", labels="split_zhou_Own.json", protocol="images")
    for split in SPLITS:
        assert found[split].names == ["ant", "black bear"]
        assert found[split].count.tolist() == [IMAGES[split]] * 2
        assert sorted(found[split].files) == sorted(file for file, *_ in held[split])


def test_without_a_list_for_validation_some_training_images_are_held_out(tmp_path):
    held = listed(tmp_path / "r", ("train", "test"))
    found = load(tmp_path / "r", labels="split_zhou_Own.json", protocol="images")
    assert sorted(found["test"].files) == sorted(file for file, *_ in held["test"])
    train, val = set(found["train"].files), set(found["val"].files)
    assert train | val == {file for file, *_ in held["train"]}
    assert val
    assert not train & val


def test_images_that_are_not_there_are_named(tmp_path, caplog):
    listed(tmp_path / "r")
    (tmp_path / "r" / "c0" / "0.png").unlink()
    found = folder(tmp_path / "r", labels="split_zhou_Own.json", protocol="images").load("train")
    assert found.count.tolist() == [4, 3]
    assert "files that split_zhou_Own.json names are not there and are left out: c0/0.png" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"is no JSON \("),
        ("[]", "as CoOp's split_zhou_"),
        ('{"trainval": []}', "as CoOp's split_zhou_"),
        ('{"train": {}}', r"image 1 of train is None"),
        ('{"train": [["a.png", 0, "a"], ["b.png", "b"]]}', r"image 2 of train is \['b.png', 'b'\]"),
        ('{"train": [["a.png", 0, " "]]}', r"image 1 of train is \['a.png', 0, ' '\]"),
    ],
)
def test_another_form_is_refused(text, said, tmp_path):
    (tmp_path / "lists.json").write_text(text)
    with pytest.raises(UserError, match=said):
        list(split_list(tmp_path / "lists.json"))


def test_what_the_lists_have_not_is_refused(tmp_path):
    listed(tmp_path / "r")
    asked = {"labels": "split_zhou_Own.json", "protocol": "images"}
    assert "has no columns, and has splits: leave it out" in refusal(tmp_path / "r", split_column="part", **asked)
    assert "cannot be read" in refusal(tmp_path / "r", **asked | {"labels": "other.json"})
    listed(tmp_path / "s", ("train", "val"))
    assert "split_zhou_Own.json has no image in test" in refusal(tmp_path / "s", **asked)
    held = listed(tmp_path / "t")
    held["test"].append(held["train"][0])
    (tmp_path / "t" / "split_zhou_Own.json").write_text(json.dumps(held))
    said = refusal(tmp_path / "t", **asked)
    assert "image 7 of test: c0/0.png is of test's black bear here and of train's black bear above" in said
