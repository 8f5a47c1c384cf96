"""The unlabelled images of an episode."""

import torch

from tests.data.made import make, make_split


def test_unlabelled_images_are_of_the_episodes_classes_and_in_nothing_else():
    split = make_split()
    source = make(split, unlabelled=3, distractors=2, tasks=300)
    draw, episode = source.indices(0), source(0)
    assert episode.support.unlabelled.shape == (300, (5 + 2) * 3, 1, 4, 4)
    assert episode.query.unlabelled.shape == (300, 0, 1, 4, 4)
    assert episode.support.y.shape == (300, 10)
    assert draw.classes.shape == (300, 7)
    assert (draw.classes.sort(1).values.diff(dim=1) > 0).all()  # distractors are other classes
    assert (draw.image.sort(1).values.diff(dim=1) > 0).all()  # no image twice in an episode
    assert torch.equal(episode.support.unlabelled, split.images[draw.image[:, 25:]] / 255)
    pixels = (episode.support.unlabelled[:, :, 0, 0, 0] * 255).round().long()
    assert torch.equal(pixels, draw.classes.gather(1, draw.label[:, 25:]))
    assert (torch.nn.functional.one_hot(draw.label[:, 25:], 7).sum(1) == 3).all()  # as many of each class
    assert (draw.label[:, 25:].diff(dim=1) != 0).float().mean() > 0.8  # shuffled


def test_unlabelled_images_change_neither_support_nor_query():
    one, two = make().indices(3), make(unlabelled=3).indices(3)
    assert torch.equal(one.image, two.image[:, :25])
    assert torch.equal(one.label, two.label[:, :25])


def test_unlabelled_images_are_turned_as_their_class_is():
    draw = make(make_split(random_turns=True), unlabelled=2, tasks=200).indices(0)
    of_support = {
        (t, c): r
        for t in range(200)
        for c, r in zip(*map(torch.Tensor.tolist, (draw.label[t, :10], draw.turn[t, :10])), strict=True)
    }
    for t in range(200):
        for c, r in zip(draw.label[t, 25:].tolist(), draw.turn[t, 25:].tolist(), strict=True):
            assert of_support[t, c] == r
