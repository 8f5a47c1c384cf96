"""Mini-batches in the shape of episodes: every image once a round, labels as the split's classes, no state."""

from dataclasses import replace

import torch

from metalab.core.interfaces import Split
from metalab.data.sampling.mini_batches import MiniBatches

CPU = torch.device("cpu")


def split(turns: bool = False) -> Split:
    """Three classes of 2, 3 and 5 images, whose pixels are the number of the image."""
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).clone()
    count = torch.tensor([2, 3, 5])
    return Split(
        images, count.cumsum(0) - count, count, list("abc"), list("abc"), turns=torch.arange(3) if turns else None
    )


def numbers(x: torch.Tensor) -> list[int]:
    return (255 * x[..., 0, 0, 0]).round().int().flatten().tolist()


def test_every_image_comes_once_a_round_with_its_class_and_another_order_the_next_time():
    source = MiniBatches(split(), 4, 1, 0, "train", CPU)
    seen, labels = [], []
    for step in range(5):  # two rounds of 10
        support, query = source(step)
        assert support.x.shape == (1, 0, 1, 2, 2)
        assert query.x.shape == (1, 4, 1, 2, 2)
        seen += numbers(query.x)
        labels += query.y.flatten().tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert labels == [[0, 0, 1, 1, 1, 2, 2, 2, 2, 2][i] for i in seen]


def test_a_step_hangs_on_seed_and_stream_alone_and_tasks_only_cut_it():
    one, two = MiniBatches(split(), 3, 1, 0, "train", CPU), MiniBatches(split(), 3, 2, 0, "train", CPU)
    assert numbers(two(1).query.x) == numbers(one(2).query.x) + numbers(one(3).query.x)
    assert numbers(one(2).query.x) == numbers(MiniBatches(split(), 3, 1, 0, "train", CPU)(2).query.x)
    others = [
        numbers(MiniBatches(split(), 9, 1, seed, stream, CPU)(0).query.x)
        for seed, stream in ((1, "train"), (0, "running"))
    ]
    assert all(other != numbers(MiniBatches(split(), 9, 1, 0, "train", CPU)(0).query.x) for other in others)


def test_a_mini_batch_may_be_larger_than_the_data():
    assert sorted(numbers(MiniBatches(split(), 25, 1, 0, "train", CPU)(0).query.x)[:20]) == sorted([*range(10)] * 2)


def test_turned_classes_are_classes_of_their_own():
    """A class that another one turned makes shares its images: each image comes once for each class."""
    given = split(turns=True)
    given.images[:, 0, 0, 1] = 200  # upright, the mark is on the right above
    shared = replace(given, first=torch.tensor([0, 0, 5]), count=torch.tensor([5, 5, 5]))
    _, query = MiniBatches(shared, 15, 1, 0, "train", CPU)(0)
    assert sorted(query.y.flatten().tolist()) == sorted([0, 1, 2] * 5)
    marks = {int(y): torch.nonzero(x[0] > 0.7).flatten().tolist() for x, y in zip(query.x[0], query.y[0], strict=True)}
    assert marks == {0: [0, 1], 1: [0, 0], 2: [1, 0]}
