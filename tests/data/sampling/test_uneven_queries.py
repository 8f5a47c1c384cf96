"""task.query_balance: queries whose classes have unequal shares, drawn from a Dirichlet distribution."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from metalab.config.schema import Task
from metalab.core.errors import UserError
from metalab.data.sampling.build import episode_source
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.data.sampling.uneven_queries import query_counts

CPU = torch.device("cpu")
EVEN = Task(5, 2, 2, None, None, None)
UNEVEN = replace(EVEN, query_balance="dirichlet", dirichlet=2.0)

BEFORE = (
    [2, 133, 82, 108, 126, 0, 117, 143, 80, 134, 113, 123, 120, 76, 10, 112, 79, 122, 8, 140],
    [1, 0, 2, 3, 4, 1, 3, 0, 2, 0, 3, 4, 4, 2, 1, 3, 2, 4, 1, 0],
)  # images and labels


def numbers(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def rounded_as_theirs(prob: np.ndarray, queries: int) -> np.ndarray:
    """Realistic_Transductive_Few_Shot's sampler.py:79-110, of one episode."""
    prob = prob * queries
    while sum(np.round(prob)) != queries:
        closest = min(range(len(prob)), key=lambda j: abs(math.modf(prob[j])[0] - 0.5))
        prob[closest] = np.floor(prob[closest]) if sum(np.round(prob)) > queries else np.ceil(prob[closest])
    return np.round(prob).astype(int)


def test_counts_are_shares_rounded_as_their_code_does():
    counts = query_counts(5, 75, 300, 2.0, numbers)
    from scipy.stats import gamma

    drawn = gamma(2.0).ppf(numbers(300, 5).numpy())
    shares = drawn / drawn.sum(1, keepdims=True)
    assert (counts.sum(1) == 75).all()
    assert counts.tolist() == [rounded_as_theirs(row, 75).tolist() for row in shares.copy()]


def test_shares_are_dirichlet_s():
    """A share of five with concentration 2 is beta(2, 8)."""
    counts = query_counts(5, 10**6, 4000, 2.0, numbers)
    assert kstest(counts[:, 0].numpy() / 10**6, "beta", args=(2, 8)).pvalue > 0.01
    assert kstest(query_counts(5, 10**6, 4000, 5.0, numbers)[:, 0].numpy() / 10**6, "beta", args=(2, 8)).pvalue < 1e-6


def test_episodes_hold_as_many_queries_of_other_images_and_true_labels(tiny):
    split = tiny["test"]
    source = episode_source(UNEVEN, split, 8, 0, "test", CPU)
    owner = torch.arange(len(split.ids)).repeat_interleave(split.count)
    seen = []
    for step in range(6):
        draw, episode = source.indices(step), source(step)
        assert episode.support.y.shape == (8, 10)
        assert episode.query.y.shape == (8, 10)
        assert all(len(row.unique()) == 20 for row in draw.image)
        assert torch.equal(owner[draw.image], draw.classes.gather(1, draw.label))
        assert all(row.bincount(minlength=5).tolist() == [2] * 5 for row in episode.support.y)
        seen += [row.bincount(minlength=5).tolist() for row in episode.query.y]
    assert any(0 in row for row in seen)
    assert max(max(row) for row in seen) > 3
    # shuffled: no class stands first
    first = torch.cat([source(step).query.y[:, 0] for step in range(30)])
    assert len(first.unique()) == 5


def test_it_is_a_function_of_seed_stream_and_step_whatever_the_batch(tiny):
    by_8 = episode_source(UNEVEN, tiny["test"], 8, 0, "test", CPU)
    by_3 = episode_source(UNEVEN, tiny["test"], 3, 0, "test", CPU)
    small = torch.cat([by_3.indices(step).label for step in range(8)])
    large = torch.cat([by_8.indices(step).label for step in range(3)])
    assert torch.equal(small, large)
    other = episode_source(UNEVEN, tiny["test"], 8, 1, "test", CPU)
    assert not torch.equal(other.indices(0).label, by_8.indices(0).label)


def test_null_draws_the_very_episodes_of_before(tiny):
    """The first queries and labels of seed 0, as the version before task.query_balance drew them."""
    drawn = EpisodeSampler(tiny["test"], 5, 1, 3, 2, 0, "test", CPU).indices(0)
    assert drawn.image[0].tolist() == BEFORE[0]
    assert drawn.label[0].tolist() == BEFORE[1]


def test_training_stays_balanced(tiny):
    episode = episode_source(UNEVEN, tiny["train"], 8, 0, "train", CPU)(0)
    assert all(row.bincount(minlength=5).tolist() == [2] * 5 for row in episode.query.y)


def test_too_few_images_are_refused_with_what_to_type(tiny):
    with pytest.raises(UserError, match=r"may give one class all 15 queries .* has 12: type task\.query=2 or less"):
        episode_source(replace(UNEVEN, shot=1, query=3), tiny["test"], 8, 0, "test", CPU)
    with pytest.raises(UserError, match=r"task\.query_balance=dirichlet: task=variable"):
        replace(UNEVEN, support=50)
    with pytest.raises(UserError, match=r"task\.dirichlet=0: expected a number above 0"):
        replace(UNEVEN, dirichlet=0.0)
