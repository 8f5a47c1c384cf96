"""All classes at once: every image is either support or query of a draw, once."""

import pytest
import torch

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.sampling.all_way import AllWayEpisodes

COUNTS = [4, 7, 5]


def split(counts: list[int] = COUNTS, **more) -> Split:
    """Images whose every pixel is their number, of classes of unequal sizes."""
    total, count = sum(counts), torch.tensor(counts)
    images = torch.arange(total, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).clone()
    names = [f"c{i}" for i in range(len(counts))]
    return Split(images, count.cumsum(0) - count, count, names, names, **more)


def source(shot: int, seed: int = 0, **more) -> AllWayEpisodes:
    return AllWayEpisodes(split(**more), shot, seed, "test", torch.device("cpu"))


@pytest.mark.parametrize("shot", [1, 3])
def test_every_image_is_a_query_once_but_for_the_support(shot):
    made = source(shot)
    for step in range(5):
        draw = made.indices(step)
        edge = len(COUNTS) * shot
        support, query = draw.image[0, :edge].tolist(), draw.image[0, edge:].tolist()
        assert sorted(support + query) == list(range(sum(COUNTS)))
        assert len(query) == made.queries
        assert draw.label[0, :edge].bincount().tolist() == [shot] * len(COUNTS)
        owner = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
        assert draw.label[0].equal(owner[draw.image[0]])


def test_an_episode_has_the_images_of_its_indices():
    made = source(2)
    draw, episode = made.indices(1), made(1)
    assert (episode.support.x[0, :, 0, 0, 0] * 255).round().long().tolist() == draw.image[0, :6].tolist()
    read = made.images(episode.query.x[0, 3:8])
    assert (read[:, 0, 0, 0] * 255).round().long().tolist() == draw.image[0, 9:14].tolist()
    assert episode.query.y[0].equal(draw.label[0, 6:])


def test_draws_differ_and_are_functions_of_the_seed():
    one, again, other = source(1), source(1), source(1, seed=1)
    supports = [tuple(one.indices(step).image[0, :3].sort().values.tolist()) for step in range(20)]
    assert len(set(supports)) > 10
    assert one.indices(3).image.equal(again.indices(3).image)
    assert not all(one.indices(s).image.equal(other.indices(s).image) for s in range(3))


def test_every_image_is_drawn_about_as_often():
    made = source(1)
    drawn = torch.cat([made.indices(step).image[0, :3] for step in range(600)]).bincount(minlength=sum(COUNTS))
    share = drawn.double() * torch.tensor(COUNTS).repeat_interleave(torch.tensor(COUNTS)) / 600
    assert share.min() > 0.6
    assert share.max() < 1.4


def test_classes_that_are_turns_of_others_have_their_turn():
    plain = split([4])
    whole = Split(
        plain.images,
        torch.tensor([0, 0]),
        torch.tensor([4, 4]),
        ["c", "c"],
        ["c", "turned"],
        turns=torch.tensor([0, 1]),
    )
    draw = AllWayEpisodes(whole, 1, 0, "test", torch.device("cpu")).indices(0)
    assert draw.turn.equal(draw.label)
    pairs = list(zip(draw.image[0].tolist(), draw.label[0].tolist(), strict=True))
    assert sorted(pairs) == [(i, k) for i in range(4) for k in range(2)]


def test_a_class_without_a_query_is_told():
    with pytest.raises(UserError, match=r"class c0 has 4 images, and one more is needed .* type task.shot=3 or less"):
        source(4)
