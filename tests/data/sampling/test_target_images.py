"""Unlabelled images of a target domain beside what training draws."""

from dataclasses import replace

import torch

from metalab.core.interfaces import Split, UnlabelledImages
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.data.sampling.mini_batches import MiniBatches

CPU = torch.device("cpu")


def split(target: int | None) -> Split:
    """Five classes of four images of value 0, and a target whose images' pixels are their number from 100 on."""
    count = torch.full((5,), 4)
    made = Split(
        torch.zeros(20, 1, 2, 2, dtype=torch.uint8), count.cumsum(0) - count, count, list("abcde"), list("abcde")
    )
    if target is None:
        return made
    images = torch.arange(100, 100 + target, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).clone()
    return replace(made, target=UnlabelledImages(images, [f"image:{i}" for i in range(target)], "other"))


def numbers(x: torch.Tensor) -> list[int]:
    return (255 * x[..., 0, 0, 0]).round().int().flatten().tolist()


def test_each_image_of_the_target_comes_once_before_any_comes_again():
    source = MiniBatches(split(target=9), 6, 2, 0, "train", CPU)
    drawn = [number for step in range(3) for number in numbers(source(step).query.unlabelled)]
    assert len(drawn) == 36
    for start in range(0, 36, 9):
        assert sorted(drawn[start : start + 9]) == list(range(100, 109))
    assert drawn[:9] != drawn[9:18]


def test_episodes_have_as_many_of_them_as_queries_and_are_else_the_same():
    with_target = EpisodeSampler(split(target=7), 3, 1, 2, 4, 0, "train", CPU)
    without = EpisodeSampler(split(target=None), 3, 1, 2, 4, 0, "train", CPU)
    one, other = with_target(5), without(5)
    assert one.query.unlabelled.shape == (4, 6, 1, 2, 2)
    assert other.query.unlabelled.shape == (4, 0, 1, 2, 2)
    assert set(numbers(one.query.unlabelled)) <= set(range(100, 107))
    assert torch.equal(one.query.y, other.query.y)
    assert torch.equal(one.support.x, other.support.x)


def test_a_step_hangs_on_seed_and_stream_alone():
    one, again = (MiniBatches(split(target=9), 6, 1, 0, "train", CPU) for _ in range(2))
    assert numbers(one(4).query.unlabelled) == numbers(again(4).query.unlabelled)
    other = MiniBatches(split(target=9), 6, 1, 1, "train", CPU)
    assert any(numbers(one(i).query.unlabelled) != numbers(other(i).query.unlabelled) for i in range(3))
