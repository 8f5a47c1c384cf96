"""The linear probe's C is the one with which scikit-learn predicts held-out support images best."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from metalab.algorithms.components.solvers.logistic_regression import FOLDS, GRID, chosen_c

WAY, SIZE = 4, 6


def drawn(counts: list[int], noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit features and labels in random order, of classes around points of their own."""
    numbers = torch.Generator().manual_seed(seed)
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    y = y[torch.randperm(len(y), generator=numbers)]
    centers = torch.eye(SIZE, dtype=torch.float64)[: len(counts)]
    around = torch.randn(len(y), SIZE, generator=numbers, dtype=torch.float64)
    return F.normalize(centers[y] + noise * around, dim=1), y


def held_out(f: torch.Tensor, y: torch.Tensor, folds: int) -> np.ndarray:
    """Return the sum of held-out cross-entropies of each C, by scikit-learn."""
    x, labels, found = f.numpy(), y.numpy(), np.zeros(len(GRID))
    place = np.array([(labels[:i] == labels[i]).sum() for i in range(len(labels))])
    for fold in range(folds):
        left = place % folds != fold
        judged = [i for i in np.flatnonzero(~left) if (labels[left] == labels[i]).any()]
        for i, c in enumerate(GRID):
            fit = LogisticRegression(C=c, tol=1e-10, max_iter=10000).fit(x[left], labels[left])
            p = fit.predict_log_proba(x[judged])
            found[i] -= p[range(len(judged)), np.searchsorted(fit.classes_, labels[judged])].sum()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "noise"), [([5] * 4, 0.1), ([5] * 4, 0.6), ([5] * 4, 3.0), ([2] * 4, 0.3), ([3, 4, 5, 8], 0.5)]
)
def test_it_is_the_one_of_scikit_learn(counts, noise):
    for seed in range(2):
        f, y = drawn(counts, noise, seed)
        theirs = held_out(f, y, min(FOLDS, len(y) // WAY))
        assert GRID[int(theirs.argmin())] == pytest.approx(chosen_c(f, y, WAY, 1000).item())


def test_classes_that_lie_apart_want_a_larger_c_than_noise():
    apart, noise = (chosen_c(*drawn([5] * 4, each, 0), WAY, 500).item() for each in (0.1, 3.0))
    assert apart > 10 * noise


def test_of_one_image_a_class_there_is_nothing_to_choose_by():
    assert chosen_c(*drawn([1] * 4, 0.1, 0), WAY, 10).item() == 1.0


def test_many_tasks_at_once_are_each_alone():
    tasks = [drawn([3] * 4, noise, 0) for noise in (0.1, 1.0, 3.0)]
    f, y = (torch.stack(each) for each in zip(*tasks, strict=True))
    together = torch.vmap(lambda x, labels: chosen_c(x, labels, WAY, 300))(f, y)
    assert together.tolist() == [chosen_c(x, labels, WAY, 300).item() for x, labels in tasks]
    assert len(together.unique()) > 1
