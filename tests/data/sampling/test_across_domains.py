"""task.query_domain: queries of one domain alone, supports of the others; the hidden target is for the test."""

from dataclasses import replace

import pytest
import torch

from metalab.config.schema import Task
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.datasets.domains import load_split
from metalab.data.sampling.episode_sampler import EpisodeSampler
from tests.data.domains import domains, folders

CPU = torch.device("cpu")


def split(inside: list[int], outside: list[int]) -> Split:
    """Classes of so many images in the query's domain (value 200 + class) and in the others (value 100 + class)."""
    values = [v + k for k, (i, o) in enumerate(zip(inside, outside, strict=True)) for v in (*[200] * i, *[100] * o)]
    images = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).clone()
    count = torch.tensor(inside) + torch.tensor(outside)
    names = [f"c{k}" for k in range(len(count))]
    made = Split(images, count.cumsum(0) - count, count, names, names)
    return replace(made, query_images=images[:, 0, 0, 0] >= 200)


def test_queries_are_of_the_one_domain_and_supports_of_the_others_without_repetition():
    source = EpisodeSampler(split([3, 5, 4, 3], [2, 2, 7, 3]), 3, 2, 3, 8, 0, "train", CPU)
    for step in range(3):
        support, query = source(step)
        for batch, value in ((support, 100), (query, 200)):
            seen = (255 * batch.x[..., 0, 0, 0]).round().int()
            classes = source.indices(step).classes.gather(1, batch.y)
            assert torch.equal(seen - value, classes.int())
        image = source.indices(step).image
        assert all(len(set(row)) == 15 for row in image.tolist())


def test_a_class_with_too_few_images_on_one_side_is_named():
    with pytest.raises(
        UserError, match=r"class c1 has 2 images in task\.query_domain, and 3 are needed: type task\.query=2"
    ):
        EpisodeSampler(split([3, 2, 4], [2, 6, 7]), 3, 2, 3, 8, 0, "train", CPU)
    with pytest.raises(UserError, match=r"class c0 has 1 images in the other domains, and 2 are needed"):
        EpisodeSampler(split([4, 5, 4], [1, 6, 7]), 3, 2, 3, 8, 0, "train", CPU)


def test_the_target_is_asked_for_in_the_test_alone(tmp_path):
    root = str(folders(tmp_path / "d", 4))
    data = domains(root=root, target="ink", protocol="classes", classes=[1, 1, 1], cache=str(tmp_path / "c"), size=16)
    test = load_split(data, "test", "ink")
    assert test.query_images is not None
    assert (test.count.tolist(), test.query_images.sum().item()) == ([12], 4)
    assert {file.split("/")[0] for file, asked in zip(test.files, test.query_images, strict=True) if asked} == {"ink"}
    assert test.note.startswith("queries of ink, supports of clay, oil")
    train = load_split(data, "train", "oil")
    assert train.query_images is not None
    assert {file.split("/")[0] for file in train.files} == {"clay", "oil"}
    assert train.target is not None
    assert load_split(data, "train", None).query_images is None
    for part in ("train", "val"):
        with pytest.raises(UserError, match=r"^task\.query_domain=ink is the target, whose labels are hidden"):
            load_split(data, part, "ink")
    with pytest.raises(UserError, match=r"^task\.query_domain=wax: expected one domain of several"):
        load_split(data, "test", "wax")
    alone = domains(root=root, source="oil", protocol="classes", classes=[1, 1, 1])
    with pytest.raises(UserError, match=r"^task\.query_domain=oil: expected one domain of several"):
        load_split(alone, "train", "oil")
    with pytest.raises(UserError, match=r"is of episodes: type data\.protocol=classes"):
        load_split(domains(root=root, target="ink"), "test", "ink")
    with pytest.raises(UserError, match=r"task\.query_domain=ink: episodes across domains are of one size"):
        Task(5, 1, 5, None, None, None, unlabelled=2, query_domain="ink")


def test_one_class_may_have_all_queries_of_unequal_shares_and_all_are_of_the_domain():
    few = split([9, 9, 9], [20, 20, 20])
    with pytest.raises(UserError, match=r"c0 has 9 images in task\.query_domain, and 18 are needed, .* task\.query=4$"):
        EpisodeSampler(few, 2, 1, 9, 8, 0, "test", CPU, dirichlet=2.0)
    with pytest.raises(UserError, match=r"all queries: type a smaller task\.way$"):
        EpisodeSampler(split([1, 9, 9], [20, 9, 9]), 2, 1, 4, 8, 0, "test", CPU, dirichlet=2.0)
    episode = EpisodeSampler(few, 2, 1, 4, 50, 0, "test", CPU, dirichlet=0.3)(0)
    assert bool((episode.query.x * 255 >= 199).all())
    assert bool((episode.support.x * 255 < 199).all())
