"""What data=folder refuses or leaves out, and says."""

import logging

import pytest

from metalab.core.errors import UserError
from tests.data.folder import folder, load, load_named, picture, refusal, tree


def test_missing_split_folders(root):
    tree(root / "train")
    tree(root / "test", offset=10_000)
    text = refusal(root)
    assert "has class folders in train/ and test/ but none in val/: add these, or put all class folders" in text
    tree(root / "val", classes=1, offset=20_000)
    assert "val has 1 class folders with images: add some, 2 are needed" in refusal(root)


def test_split_folders_in_capitals_are_no_classes(root):
    for offset, name in enumerate(("Train", "Val", "Test")):
        tree(root / name, offset=10_000 * offset)
    expected = (
        "has Test/ and Train/ and Val/: expected train/, val/ and test/ in small letters; rename them, or they would"
    )
    assert expected in refusal(root)


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


def test_root_mistakes(root):
    form = "type data.root=/path/to/images"
    assert refusal(None) == f"data=folder needs the folder that holds your class folders: {form}"
    assert f"data.root={root} does not exist: expected a folder with one folder a class; {form}" in refusal(root)
    root.write_text("x")
    assert f"data.root={root} is a file" in refusal(root)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"size": 4}, "data.size=4: expected 8 to 1024 pixels; type data.size=84"),
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
