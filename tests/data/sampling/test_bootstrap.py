"""Bagging: what training draws from, and what of it stands on the record."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from metalab.core.errors import UserError
from metalab.core.interfaces import ClassFamilies, Resampling, Split
from metalab.data.sampling.bootstrap import bootstrapped
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.data.sampling.mini_batches import MiniBatches
from metalab.data.sampling.variable_sampler import VariableEpisodeSampler

CPU = torch.device("cpu")


def made(count: list[int], **fields) -> Split:
    """A split of images that are their own numbers."""
    sizes = torch.tensor(count)
    total = int(sizes.sum())
    images = torch.arange(total, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    names = [f"c{k}" for k in range(len(count))]
    files = [f"{i}.png" for i in range(total)]
    ids = [f"image:{i}" for i in range(total)]
    return Split(images, sizes.cumsum(0) - sizes, sizes, names, names, files, ids, **fields)


def numbers(x: torch.Tensor) -> torch.Tensor:
    return (255 * x[..., 0, 0, 0]).round().long()


def test_classes_are_drawn_with_replacement_and_an_episode_has_each_once():
    split = made([4] * 60)
    bag = bootstrapped(split, "classes", False, seed=3)
    assert bag.resampling is not None
    assert bag.resampling.classes is not None
    assert int(bag.resampling.classes.sum()) == 60
    assert len(set(bag.ids)) == len(bag.ids)
    assert 30 <= len(bag.ids) <= 45  # about 63 % of 60 are 38
    source = EpisodeSampler(bag, 5, 1, 2, 256, 0, "train", CPU)
    drawn = torch.cat([source.indices(step).classes for step in range(20)])
    assert all(len(set(row)) == 5 for row in drawn.tolist())
    often = drawn.flatten().bincount(minlength=len(bag.ids)).double()
    once, twice = (often[bag.resampling.classes == n].mean() for n in (1, 2))
    assert 1.7 < twice / once < 2.05  # a little less than 2, as none is drawn twice
    seen = {i for i, own in enumerate(bag.image_ids) if own}
    there = {int(i) for k in range(len(bag.ids)) for i in range(bag.first[k], bag.first[k] + bag.count[k])}
    assert seen == there
    assert bag.note == f"train.bootstrap=classes: {len(bag.ids)} of 60 classes, drawn with replacement"


def test_the_bag_is_the_seeds():
    split = made([4] * 60)
    bags = [bootstrapped(split, "classes", False, seed).ids for seed in (0, 0, 1)]
    assert bags[0] == bags[1] != bags[2]


def test_images_of_episodes_are_unique_so_that_support_and_queries_share_none():
    split = made([40, 50, 60])
    bag = bootstrapped(split, "images", False, seed=0)
    share = bag.count.double() / split.count
    assert (share > 0.5).all()
    assert (share < 0.76).all()
    assert len(set(bag.files)) == len(bag.images) == int(bag.count.sum())
    assert bag.files == [f"{int(i)}.png" for i in bag.images[:, 0, 0, 0]]
    assert [own.removeprefix("image:") for own in bag.image_ids] == [file.removesuffix(".png") for file in bag.files]
    for k, edge in enumerate([0, 40, 90]):
        own = bag.images[bag.first[k] : bag.first[k] + bag.count[k], 0, 0, 0].long()
        assert ((own >= edge) & (own < edge + split.count[k])).all()
    support, query = EpisodeSampler(bag, 3, 5, 10, 50, 0, "train", CPU)(0)
    for s, q in zip(numbers(support.x).tolist(), numbers(query.x).tolist(), strict=True):
        assert len(set(s) | set(q)) == 45


def test_classes_that_are_turns_of_others_keep_sharing_their_images():
    split = made([8, 8])
    turned = replace(
        split,
        first=split.first.repeat(2),
        count=split.count.repeat(2),
        ids=split.ids * 2,
        names=["a", "b", "a90", "b90"],
        turns=torch.tensor([0, 0, 1, 1]),
    )
    bag = bootstrapped(turned, "images", False, seed=0)
    assert bag.first.tolist() == bag.first[:2].tolist() * 2
    assert int(bag.count[:2].sum()) == len(bag.images) < 16
    classes = bootstrapped(turned, "classes", False, seed=1)
    assert classes.turns is not None
    assert len(classes.turns) == len(classes.ids)


def test_mini_batches_go_through_the_drawn_images_with_their_repetitions():
    split = made([30, 20])
    bag = bootstrapped(split, "images", True, seed=0)
    assert bag.resampling is not None
    assert bag.resampling.items is not None
    source = MiniBatches(bag, 10, 1, 0, "train", CPU)
    seen = torch.cat([numbers(source(step).query.x).flatten() for step in range(5)])
    labels = torch.cat([source(step).query.y.flatten() for step in range(5)])
    assert sorted(seen.tolist()) == sorted(bag.resampling.items.tolist())  # one round
    assert (labels == (seen >= 30).long()).all()
    assert Counter(labels.tolist()) == {0: 30, 1: 20}
    assert 25 <= len(set(seen.tolist())) <= 38
    assert {i for i, own in enumerate(bag.image_ids) if own} == set(seen.tolist())


def test_weights_are_how_often_mini_batches_draw_and_a_step_is_its_own():
    split = replace(made([10, 10]), resampling=Resampling(None, None, torch.tensor([1.0] * 10 + [3.0] * 10).double()))
    source = MiniBatches(split, 50, 2, 0, "train", CPU)
    labels = torch.cat([source.indices(step).label.flatten() for step in range(100)])
    assert float(labels.double().mean()) == pytest.approx(0.75, abs=0.02)
    again = MiniBatches(split, 50, 2, 0, "train", CPU)
    assert torch.equal(again.indices(57).image, source.indices(57).image)


def test_equal_weights_draw_the_very_episodes_of_none():
    split = made([6] * 20)
    alike = replace(split, resampling=Resampling(torch.ones(20).double(), None, None))
    one, two = (EpisodeSampler(each, 5, 1, 2, 8, 0, "train", CPU).indices(3) for each in (split, alike))
    assert all(map(torch.equal, one, two))


def test_a_weighted_class_keeps_to_its_family():
    families = ClassFamilies(torch.tensor([0] * 6 + [1] * 6), ["a", "b"], ["x", "x"], torch.ones(2).double())
    weights = torch.linspace(0.01, 5, 12).double()
    split = made([6] * 12, families=families, resampling=Resampling(weights, None, None))
    drawn = EpisodeSampler(split, 5, 1, 2, 256, 0, "train", CPU).indices(0).classes
    assert ((drawn < 6).all(1) | (drawn >= 6).all(1)).all()
    classes = VariableEpisodeSampler(split, 5, 5, 2, 20, 0, "train", CPU).indices(0).classes[0].tolist()
    assert len(set(classes)) == 5


def test_a_plain_classifier_needs_all_of_its_classes():
    with pytest.raises(UserError, match=r"train\.bootstrap=classes: .* type train\.bootstrap=images"):
        bootstrapped(made([4, 4], by_image=True), "classes", True, 0)


def test_a_bag_of_images_keeps_which_of_them_are_the_query_domains():
    queries = torch.arange(60) % 3 == 0
    bag = bootstrapped(made([20, 20, 20], query_images=queries), "images", False, seed=0)
    assert bag.query_images is not None
    assert bag.query_images.tolist() == queries[bag.images[:, 0, 0, 0].long()].tolist()
    support, query = EpisodeSampler(bag, 3, 2, 2, 20, 0, "train", CPU)(0)
    assert bool(queries[numbers(query.x)].all())
    assert not bool(queries[numbers(support.x)].any())


def test_classes_that_are_not_drawn_leave_no_other_domains_id():
    bag = bootstrapped(made([4] * 9, aliases=[f"other:{k}" for k in range(9)]), "classes", False, seed=3)
    assert len(bag.ids) < 9
    assert bag.aliases == [each.replace("c", "other:") for each in bag.ids]
