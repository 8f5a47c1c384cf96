"""Whole classes by data.ratios, also where nothing is trained."""

import pytest

from metalab.core.errors import UserError
from metalab.data.formats.class_tree import read_tree


@pytest.fixture
def folder(tmp_path):
    def made(classes: int):
        for k in range(classes):
            (tmp_path / f"c{k}").mkdir()
            (tmp_path / f"c{k}" / "1.png").touch()
        return tmp_path

    return made


@pytest.mark.parametrize(
    ("classes", "ratios", "sizes"),
    [
        (7, [0.0, 0.0, 1.0], (0, 0, 7)),
        (7, [0.0, 1.0, 0.0], (0, 7, 0)),
        (7, [0.0, 0.5, 0.5], (0, 3, 4)),
        (4, [0.0, 0.5, 0.5], (0, 2, 2)),
        (2, [0.0, 0.0, 1.0], (0, 0, 2)),
        (10, [0.6, 0.2, 0.2], (6, 2, 2)),
    ],
)
def test_a_share_of_0_has_no_class(folder, classes, ratios, sizes):
    found = read_tree(folder(classes), ratios, 0).images
    assert tuple(len(found[split]) for split in ("train", "val", "test")) == sizes
    assert len({name for names in found.values() for name in names}) == classes


@pytest.mark.parametrize(("classes", "ratios"), [(3, [0.0, 0.5, 0.5]), (1, [0.0, 0.0, 1.0]), (5, [0.6, 0.2, 0.2])])
def test_too_few_classes_are_refused(folder, classes, ratios):
    with pytest.raises(UserError, match="needs at least"):
        read_tree(folder(classes), ratios, 0)
