"""The pixel baseline: right on episodes made by hand, and on the real data as accurate as was measured elsewhere."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metalab.core.interfaces import Batch, Episode, Split
from metalab.data.datasets.drawings.omniglot import Omniglot
from metalab.data.datasets.photos.cifar100 import CifarFS
from metalab.data.datasets.photos.miniimagenet import MiniImageNet
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.evaluation.pixel_baseline import pixel_nearest_neighbour

SHARED = os.environ.get("METALAB_SHARED_DATA")
real = pytest.mark.skipif(not SHARED, reason="METALAB_SHARED_DATA is unset: there is no real data to measure on")


def test_each_query_takes_the_label_of_the_image_at_the_smallest_angle():
    support = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.1, 0.1, 0.9]]).view(1, 3, 1, 1, 3)
    query = torch.tensor([[0.2, 0.0, 0.1], [0.1, 9.0, 0.2], [0.0, 0.0, 0.3], [0.5, 0.4, 0.0]]).view(1, 4, 1, 1, 3)
    none = support[:, :0]
    labels, truth = torch.tensor([[2, 0, 1]]), torch.tensor([[2, 0, 1, 0]])  # the last one is nearer to label 2
    source = lambda step: Episode(Batch(support, labels, none), Batch(query, truth, none))  # noqa: E731
    assert pixel_nearest_neighbour(source, 3) == (0.75, 0.0)


def upright(split: Split) -> Split:
    """Return the characters alone, without their rotations."""
    assert split.turns is not None
    chosen = split.turns == 0
    kept = [k for k, turn in enumerate(split.turns.tolist()) if turn == 0]
    ids, names = [split.ids[k] for k in kept], [split.names[k] for k in kept]
    return replace(split, first=split.first[chosen], count=split.count[chosen], ids=ids, names=names, turns=None)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return os.environ.get("METALAB_CACHE") or str(tmp_path_factory.mktemp("cache"))


SETS = {
    "omniglot": lambda root, cache: upright(Omniglot(root, cache).load("test")),
    "miniimagenet": lambda root, cache: MiniImageNet(root, cache).load("test"),
    "cifar100": lambda root, cache: CifarFS(root, cache).load("test"),
}


@real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "way", "shot", "expected"),
    [
        ("omniglot", 5, 1, 47.0),
        ("omniglot", 5, 5, 71.4),
        ("omniglot", 20, 1, 27.8),
        ("miniimagenet", 5, 1, 23.4),
        ("miniimagenet", 5, 5, 26.1),
        ("cifar100", 5, 1, 29.7),
        ("cifar100", 5, 5, 35.9),
    ],
)
def test_on_the_real_data_it_is_as_known(cache, data, way, shot, expected):
    split = SETS[data](str(Path(str(SHARED)) / data), cache)
    source = EpisodeSampler(split, way, shot, 15, 10, 0, "test", torch.device("cpu"))
    accuracy, ci95 = pixel_nearest_neighbour(source, 600)
    print(f"{data} {way}-way {shot}-shot: {100 * accuracy:.1f} +- {100 * ci95:.1f} %, known as {expected}")
    assert abs(100 * accuracy - expected) < 1.5
