"""Which images are remembered: herding against its paper's algorithm in numpy, reservoir sampling against chance."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from metalab.data.sampling.exemplars import herded, reservoir
from metalab.data.sampling.seeded import generator


def herding_in_numpy(features: np.ndarray, count: int) -> list[int]:
    """Algorithm 4 of Rebuffi et al. 2017, image by image."""
    phi = [f / np.sqrt((f**2).sum()) for f in features]
    mu = np.stack(phi).mean(0)
    mu = mu / np.sqrt((mu**2).sum())
    chosen: list[int] = []
    for k in range(1, count + 1):
        best, nearest = -1, np.inf
        for i in range(len(phi)):
            if i in chosen:
                continue
            mean = (phi[i] + sum((phi[j] for j in chosen), np.zeros_like(mu))) / k
            if (distance := np.sqrt(((mu - mean) ** 2).sum())) < nearest:
                best, nearest = i, distance
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("seed", range(3))
def test_herding_is_the_papers(seed):
    features = np.random.default_rng(seed).gamma(1.0, size=(30, 7))
    assert herded(torch.from_numpy(features), 12).tolist() == herding_in_numpy(features, 12)
    assert herded(torch.from_numpy(features), 5).tolist() == herding_in_numpy(features, 12)[:5]
    assert sorted(herded(torch.from_numpy(features), 99).tolist()) == list(range(30))


def sampled(seed: int, parts: tuple[int, ...], size: int) -> list[int]:
    """Return the items that a reservoir holds when parts of a stream have come by, one after another."""
    held, seen = [-1] * size, 0
    for number, part in enumerate(parts):
        new = reservoir(seen, part, size, generator(seed, "test", f"{number}")).tolist()
        held = [old if item < 0 else seen + item for old, item in zip(held, new, strict=True)]
        seen += part
    return held


def test_a_reservoir_holds_each_item_with_the_same_chance():
    count, draws = np.zeros(30), 3000
    for seed in range(draws):
        held = sampled(seed, (12, 3, 15), 8)
        assert len(set(held)) == 8
        count[held] += 1
    assert count.sum() == 8 * draws
    # of a draw without replacement the counts vary less than chi-square has it, by 1 - 8/30
    assert chisquare(count).statistic / (1 - 8 / 30) < 58.3  # 0.999 of 29 degrees of freedom


def test_a_reservoir_that_is_not_full_holds_all():
    assert sorted(sampled(0, (3, 2), 8)) == [-1, -1, -1, 0, 1, 2, 3, 4]
