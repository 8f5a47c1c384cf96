"""Grouped sampling: no group of images stands on both sides of an episode, and all that can be drawn is drawn."""

from dataclasses import replace

import pytest
import torch

from metalab.core.errors import UserError
from metalab.data.sampling.grouped import group_by_filename
from tests.data.made import make, make_split

WAY, SHOT, QUERY = 5, 2, 3


def tracks(sizes: list[list[int]]):
    """Make a split with class k's images in groups of its own, of sizes[k] images each."""
    split = make_split(images=[sum(each) for each in sizes])
    lengths = torch.tensor([size for each in sizes for size in each])
    return replace(split, group=torch.repeat_interleave(torch.arange(len(lengths)), lengths))


def drawers(classes=12, people=9):
    """Make a split whose classes have one image by each of the same people."""
    split = make_split(classes=classes, images=people)
    return replace(split, group=torch.arange(classes * people) % people)


def groups_of(split):
    assert split.group is not None
    return split.group


def sides(split, **more):
    """Return the groups of the support and of the query of many episodes, a set each."""
    draw = make(split, **{"tasks": 300, **more}).indices(0)
    edge = more.get("way", WAY) * more.get("shot", SHOT)
    groups = groups_of(split)[draw.image]
    return [(set(row[:edge].tolist()), set(row[edge:].tolist())) for row in groups], draw


@pytest.mark.parametrize(
    ("split", "more"),
    [
        (drawers(), {}),
        (drawers(), {"shot": 4, "query": 5}),
        (drawers(), {"way": 12, "shot": 1, "query": 8}),
        (tracks([[3, 3, 3]] * 12), {}),
        (tracks([[1] * 9] * 12), {}),
        (tracks([[2, 30], [30, 2], [4, 4, 4, 4], [30, 30], [3, 3], [1, 3, 9], [2, 5]]), {}),
        (tracks([[3, 30]] * 8), {"shot": 1, "query": 15}),
        (tracks([[1, 3, 2]] * 12), {}),  # some draws take a query too many, and are drawn again
    ],
)
def test_no_group_stands_on_both_sides(split, more):
    both, draw = sides(split, **more)
    assert all(not support & query for support, query in both)
    assert (draw.image.sort(1).values.diff(dim=1) > 0).all()
    classes = draw.classes.gather(1, draw.label)
    assert (draw.image >= split.first[classes]).all()
    assert (draw.image < (split.first + split.count)[classes]).all()


def test_the_support_is_of_several_groups_where_the_query_can_spare_them():
    split = tracks([[4, 4, 4, 4, 4, 4]] * 12)
    draw = make(split, shot=3, query=2, tasks=300).indices(0)
    group, label = groups_of(split)[draw.image[:, :15]], draw.label[:, :15]
    for label_of in range(5):
        of_class = group[label == label_of].view(300, 3)
        assert (of_class.sort(1).values.diff(dim=1) > 0).all()  # three images of three of the six groups


def test_every_image_comes_to_either_side():
    for split in (drawers(), tracks([[3, 3, 3]] * 12)):
        draw = make(split, tasks=2000).indices(0)
        for part in (draw.image[:, :10], draw.image[:, 10:]):
            count = part.flatten().bincount(minlength=108)
            expected = part.numel() / 108
            assert ((count - expected) ** 2 / expected).sum() < 250  # more than independent draws', far from skewed
            assert count.min() > expected / 2


def test_unlabelled_images_are_on_the_supports_side():
    split = drawers(people=12)
    draw = make(split, shot=2, query=3, unlabelled=4, distractors=1, tasks=300).indices(0)
    groups = groups_of(split)[draw.image]
    for row in groups:
        query = set(row[10:25].tolist())
        assert not query & set(row[:10].tolist())
        assert not query & set(row[25:].tolist())


@pytest.mark.slow
def test_the_same_whatever_the_meta_batch():
    split = tracks([[2, 30], [30, 2], [4, 4, 4, 4], [30, 30], [3, 3], [1, 3, 9], [2, 5]])
    flat = [torch.cat([make(split, tasks=t).indices(s).image for s in range(600 // t)]) for t in (4, 300)]
    assert torch.equal(*flat)


def test_what_cannot_be_is_told_before_any_work():
    with pytest.raises(UserError, match=r"in 50 draws no 5 classes had 2 images each .* and 3 of the others: type a "):
        make(tracks([[9]] * 12))


def test_groups_are_read_off_file_names():
    files = [f"train/{k}/track{t}_{i}.ppm" for k in range(2) for t in range(2) for i in range(3)]
    split = replace(make_split(images=[6, 6]), files=files)
    assert group_by_filename(split, None) is split
    by_track = group_by_filename(split, r"\d+/track\d+").group
    assert by_track is not None
    assert by_track.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    by_number = group_by_filename(split, r"track(\d+)").group
    assert by_number is not None
    assert by_number.tolist() == [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3
    with pytest.raises(UserError, match=r"is not in 6 of the 12 file names, such as train/0/track1_0\.ppm"):
        group_by_filename(split, "track0")
    with pytest.raises(UserError, match=r"data\.group=\( is no regular expression"):
        group_by_filename(split, "(")
    with pytest.raises(UserError, match=r"this data has no files"):
        group_by_filename(make_split(), "x")
