"""Families of classes: an episode's classes are of one alphabet, or of one data set."""

from dataclasses import replace

import pytest
import torch

from metalab.core.errors import UserError
from metalab.core.interfaces import ClassFamilies
from metalab.data.datasets.drawings.omniglot_splits import alphabet
from metalab.data.sampling.class_families import build_families, most_classes, shares
from tests.data.made import make, make_split

NAMES = [f"{letter}/{k}" for letter, count in (("A", 6), ("B", 3), ("C", 8), ("D", 7)) for k in range(count)]


def families(**more):
    return replace(make_split(classes=len(NAMES), **more), families=build_families(NAMES, "letters", alphabet))


def chosen(split, **more):
    """Return the family of each of many episodes, and see that it has but one."""
    draw = make(split, **{"tasks": 2000, **more}).indices(0)
    family = split.families.family[draw.classes]
    assert (family == family[:, :1]).all()
    assert (draw.classes.sort(1).values.diff(dim=1) > 0).all()
    return family[:, 0], draw


def test_an_episode_is_of_one_family_each_as_often_and_of_none_that_is_too_small():
    family, draw = chosen(families())
    count = family.bincount(minlength=4).tolist()
    assert count[1] == 0  # B has 3 of 5 classes
    assert all(abs(n - 2000 / 3) < 80 for n in count[:1] + count[2:])
    assert len(draw.classes.unique()) == 6 + 8 + 7


def test_distractors_are_of_the_family_too():
    family, _ = chosen(families(), unlabelled=1, distractors=2)
    assert set(family.tolist()) == {2, 3}


def test_a_sources_share_does_not_hang_on_its_small_families():
    family = torch.tensor([0] * 6 + [1] * 3 + [2] * 8 + [3] * 7)
    weight = torch.tensor([1, 1, 4, 2], dtype=torch.float64)
    of = ClassFamilies(family, ["A", "B", "C", "D"], ["one", "one", "two", "two"], weight)
    assert shares(of, 2).tolist() == pytest.approx([0.125, 0.125, 0.5, 0.25])
    assert shares(of, 5).tolist() == pytest.approx([0.25, 0, 0.5, 0.25])
    assert shares(of, 8).tolist() == pytest.approx([0, 0, 1, 0])
    family, _ = chosen(replace(families(), families=of))
    assert family.bincount(minlength=4).tolist() == pytest.approx([500, 0, 1000, 500], abs=90)


def test_a_source_without_a_family_of_the_size_is_an_error():
    expected = (
        r"^way=9 but the classes of an episode are of one family, and the largest of letters in the train split, C,"
    )
    with pytest.raises(UserError, match=expected + r" has 8: type task\.train_way=8 or less$"):
        make(families(), way=9)
    with pytest.raises(UserError, match=r"way=6 and 3 distractors but .* has 8: type task\.way=5 or less"):
        make(families(), way=6, unlabelled=1, distractors=3, stream="val")


def test_how_many_classes_an_episode_can_have():
    assert most_classes(families()) == 8
    assert most_classes(make_split()) == 12
    family = torch.tensor([0] * 6 + [1] * 3 + [2] * 8 + [3] * 7)
    two = ClassFamilies(family, ["A", "B", "C", "D"], ["one", "one", "two", "two"], torch.ones(4))
    assert most_classes(replace(families(), families=two)) == 6
