"""Images dealt out to splits and folds: each class in each part, no group torn apart."""

import warnings
from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from metalab.data.sampling.stratified import belonging_together, stratified_folds, stratified_parts

RATIOS = (0.64, 0.16, 0.20)


def made(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return classes and groups of 2 to 5 classes, 5 to 8 groups a class of 1 to 11 images each."""
    draw = np.random.default_rng(seed)
    sizes = [draw.integers(1, 12, draw.integers(5, 9)) for _ in range(draw.integers(2, 6))]
    classes = np.concatenate([np.full(size.sum(), k) for k, size in enumerate(sizes)])
    return classes, np.repeat(np.arange(sum(map(len, sizes))), np.concatenate(sizes))


@pytest.mark.parametrize(
    ("images", "expected"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (20, (13, 3, 4)), (100, (64, 16, 20))]
)
def test_a_part_gets_its_share_of_each_class_and_at_least_one_image(images, expected):
    classes = np.repeat([0, 1, 2], [images, 3, 50])
    parts = stratified_parts(classes, np.arange(len(classes)), RATIOS, 0)
    assert tuple(np.bincount(parts[classes == 0])) == expected
    assert tuple(np.bincount(parts[classes == 1])) == (1, 1, 1)
    assert tuple(np.bincount(parts[classes == 2])) == (32, 8, 10)


def test_a_part_without_a_share_gets_nothing():
    classes = np.repeat([0, 1], 10)
    assert Counter(stratified_parts(classes, np.arange(20), [0.5, 0, 0.5], 0).tolist()) == {0: 10, 2: 10}
    assert set(stratified_parts(classes, np.arange(20), [0, 0, 1], 0).tolist()) == {2}


def test_the_seed_draws_them_and_draws_the_same_again():
    classes, groups = np.repeat([0, 1], 20), np.arange(40)
    one, same, other = (stratified_parts(classes, groups, RATIOS, seed).tolist() for seed in (0, 0, 1))
    assert one == same
    assert one != other
    firsts = {tuple(np.flatnonzero(stratified_parts(classes, groups, RATIOS, seed)[:20] == 2)) for seed in range(20)}
    assert len(firsts) > 15  # and not the first, or the last, images of a class


@pytest.mark.parametrize("seed", range(40))
def test_a_group_is_never_torn_and_each_part_has_each_class(seed):
    classes, groups = made(seed)
    for parts, count in (
        (stratified_parts(classes, groups, RATIOS, seed), 3),
        (stratified_folds(classes, groups, 5, seed), 5),
    ):
        assert all(len(set(parts[groups == g])) == 1 for g in range(groups.max() + 1))
        assert all(set(parts[classes == k]) == set(range(count)) for k in range(classes.max() + 1))


def test_a_group_that_two_classes_share_is_not_torn_either():
    classes = np.repeat([0, 1], 12)
    groups = np.tile(np.repeat(np.arange(4), 3), 2)  # 4 groups, of 3 images of each class
    parts = stratified_parts(classes, groups, RATIOS, 0)
    assert all(len(set(parts[groups == g])) == 1 for g in range(4))
    assert all(set(parts[classes == k]) == {0, 1, 2} for k in (0, 1))


def test_folds_are_scikit_learns_and_say_nothing():
    classes, alone = np.repeat([0, 1], [13, 8]), np.arange(21)
    groups = np.repeat(np.arange(11), 2)[:21] + 11 * (classes == 1)
    groups = np.unique(groups, return_inverse=True)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = stratified_folds(classes, alone, 4, 3)
        grouped = stratified_folds(classes, groups, 4, 3)
    theirs = StratifiedKFold(4, shuffle=True, random_state=3).split(classes, classes)
    assert [np.flatnonzero(found == k).tolist() for k in range(4)] == [test.tolist() for _, test in theirs]
    theirs = StratifiedGroupKFold(4, shuffle=True, random_state=3).split(classes, classes, groups)
    assert [np.flatnonzero(grouped == k).tolist() for k in range(4)] == [test.tolist() for _, test in theirs]


def test_what_shares_anything_belongs_together():
    video, content = np.array([0, 0, 1, 2, 3, 4]), np.array(["a", "b", "b", "c", "c", "d"])
    assert belonging_together(video, content).tolist() == [0, 0, 0, 1, 1, 2]
    assert belonging_together(content).tolist() == [0, 1, 1, 2, 2, 3]
    assert belonging_together(np.array(["z", "a", "z", "m"])).tolist() == [0, 1, 0, 2]
    assert belonging_together(np.array(["z", "a", "z", "m"]), np.array([9, 5, 7, 2])).tolist() == [0, 1, 0, 2]
