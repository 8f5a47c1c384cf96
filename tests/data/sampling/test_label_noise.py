"""task.label_noise: support images with the label of another class of the episode."""

from dataclasses import replace

import pytest
import torch

from metalab.config.schema import Task
from metalab.core.errors import UserError
from metalab.data.sampling.build import episode_source
from tests.data.made import CPU, make_split

CLEAN = Task(5, 5, 2, None, None, None)
NOISY = replace(CLEAN, label_noise=0.4)


def test_each_class_gives_two_of_five_images_and_is_given_two():
    source = episode_source(NOISY, make_split(), 64, 0, "test", CPU)
    true, given = source.indices(0).label[:, :25], source(0).support.y
    assert (given != true).sum(1).tolist() == [10] * 64
    for row, own in zip(given, true, strict=True):
        assert row.bincount(minlength=5).tolist() == [5] * 5
        assert [int((row[own == k] != k).sum()) for k in range(5)] == [2] * 5
        assert all(len(row[(own == k) & (row != k)].unique()) == 2 for k in range(5))  # two different classes


def test_a_wrong_label_is_any_other_class_alike():
    source = episode_source(replace(CLEAN, label_noise=0.2), make_split(), 256, 0, "test", CPU)
    true = torch.cat([source.indices(step).label[:, :25] for step in range(8)])
    given = torch.cat([source(step).support.y for step in range(8)])
    moved = torch.zeros(5, 5).index_put_((true[true != given], given[true != given]), torch.tensor(1.0), True)
    assert moved.diag().sum() == 0
    assert moved.sum() == 2048 * 5
    share = moved / moved.sum(1, keepdim=True)
    assert (share[~torch.eye(5).bool()] - 0.25).abs().max() < 0.04  # of 2,048 draws each: four standard deviations


def test_the_images_and_queries_are_those_of_the_clean_episodes():
    split = make_split()
    clean, noisy = (episode_source(task, split, 8, 3, "test", CPU) for task in (CLEAN, NOISY))
    for step in range(3):
        one, other = clean(step), noisy(step)
        assert torch.equal(one.support.x, other.support.x)
        assert torch.equal(one.query.x, other.query.x)
        assert torch.equal(one.query.y, other.query.y)
        assert not torch.equal(one.support.y, other.support.y)


def test_it_is_a_function_of_seed_stream_and_step_whatever_the_batch():
    split = make_split()
    by_8, by_3 = (episode_source(NOISY, split, tasks, 0, "test", CPU) for tasks in (8, 3))
    small = torch.cat([by_3(step).support.y for step in range(8)])
    assert torch.equal(small, torch.cat([by_8(step).support.y for step in range(3)]))
    other = episode_source(NOISY, split, 8, 1, "test", CPU)
    assert not torch.equal(other(0).support.y, by_8(0).support.y)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"label_noise": 0.25},
            r"task\.label_noise=0\.25 of 5 images is no whole number .*: type task\.label_noise=0, 0",
        ),
        (
            {"shot": 1, "label_noise": 0.2},
            r"of 1 image is no whole number of images a class: type task\.label_noise=0,",
        ),
        ({"label_noise": 1.0}, r"task\.label_noise=1: expected the share of wrong labels, from 0 up to but not"),
        ({"train_label_noise": -0.2}, r"task\.train_label_noise=-0\.2: expected the share"),
        ({"support": 50, "label_noise": 0.2}, r"task\.label_noise=0\.2: task=variable has true labels alone"),
        ({"shots": [1, 2, 5, 5, 10], "label_noise": 0.2}, r"task\.label_noise=0\.2 with task\.shots="),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_type(more, message):
    with pytest.raises(UserError, match=message):
        replace(CLEAN, **more)
