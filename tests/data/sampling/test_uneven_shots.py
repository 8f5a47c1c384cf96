"""task.shots: supports with unequal numbers of images a class."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from metalab.config.schema import Task
from metalab.core.errors import UserError
from metalab.data.sampling.build import episode_source
from tests.data.made import CPU, make_split

EVEN = Task(4, 3, 2, None, None, None)
UNEVEN = replace(EVEN, shots=[1, 2, 2, 5])


def test_classes_have_these_shots_in_any_order():
    split = make_split()
    owner = torch.arange(len(split.ids)).repeat_interleave(split.count)
    source, seen = episode_source(UNEVEN, split, 32, 0, "test", CPU), Counter[int]()
    for step in range(6):
        draw, episode = source.indices(step), source(step)
        assert episode.support.y.shape == (32, 10)
        assert torch.equal(owner[draw.image], draw.classes.gather(1, draw.label))
        assert all(len(row.unique()) == 18 for row in draw.image)  # no image twice, on either side
        counts = [row.bincount(minlength=4).tolist() for row in episode.support.y]
        assert all(sorted(row) == [1, 2, 2, 5] for row in counts)
        assert all(row.bincount(minlength=4).tolist() == [2] * 4 for row in episode.query.y)
        seen.update(row.index(5) for row in counts)
    assert set(seen) == {0, 1, 2, 3}
    assert min(seen.values()) > 192 / 4 - 4 * 6  # four standard deviations of a fair draw


def test_the_support_is_shuffled():
    source = episode_source(UNEVEN, make_split(), 64, 0, "test", CPU)
    assert len(source(0).support.y[:, 0].unique()) == 4
    assert len(source(0).support.y[:, -1].unique()) == 4


def test_it_is_a_function_of_seed_stream_and_step_whatever_the_batch():
    split = make_split()
    by_8, by_3 = (episode_source(UNEVEN, split, tasks, 0, "test", CPU) for tasks in (8, 3))
    small = torch.cat([by_3.indices(step).image for step in range(8)])
    assert torch.equal(small, torch.cat([by_8.indices(step).image for step in range(3)]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"shots": [1, 2]},
            r"task\.shots=\[1, 2\]: expected task\.way=4 numbers of 1 or more, .* task\.shots=\[1,2,3,4\]",
        ),
        ({"shots": [0, 1, 1, 1]}, r"expected task\.way=4 numbers of 1 or more"),
        ({"shots": [1, 1, 1, 1], "support": 50}, r"task=variable draws the shots of each class; type task=fixed"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_type(more, message):
    with pytest.raises(UserError, match=message):
        replace(EVEN, **more)


def test_any_class_may_have_the_most_images_so_that_each_must_have_them():
    with pytest.raises(UserError, match=r"has 9 images, 8-shot with 2 queries needs 10"):
        episode_source(replace(EVEN, shots=[1, 1, 1, 8]), make_split(), 4, 0, "test", CPU)
