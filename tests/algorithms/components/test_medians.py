"""The spatial median of each class's features."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from metalab.algorithms.components.distances import class_means
from metalab.algorithms.components.medians import class_medians


def test_it_has_the_least_sum_of_distances():
    torch.manual_seed(0)
    features, y = torch.randn(17, 3, dtype=torch.float64), torch.arange(17) % 3
    found = class_medians(features, y, 3)
    for k in range(3):
        own = features[y == k].numpy()
        best = minimize(lambda at, own=own: np.linalg.norm(own - at, axis=1).sum(), own.mean(0), tol=1e-14)
        assert np.linalg.norm(own - found[k].numpy(), axis=1).sum() - best.fun < 1e-4


@pytest.mark.parametrize("shot", [1, 2])
def test_of_one_or_two_images_it_is_their_mean(shot):
    features, y = torch.randn(3 * shot, 4, dtype=torch.float64), torch.arange(3 * shot) % 3
    torch.testing.assert_close(class_medians(features, y, 3), class_means(features, y, 3))


def test_one_image_far_away_moves_the_mean_and_hardly_the_median():
    torch.manual_seed(0)
    features, y = torch.randn(5, 2, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    moved = features.clone()
    moved[0] = 1000.0
    assert (class_means(moved, y, 1) - class_means(features, y, 1)).norm() > 200
    assert (class_medians(moved, y, 1) - class_medians(features, y, 1)).norm() < 2


def test_its_gradient_is_right_and_finite_where_images_are_equal():
    torch.manual_seed(0)
    features, y = torch.randn(7, 2, dtype=torch.float64, requires_grad=True), torch.tensor([0, 0, 0, 0, 1, 1, 1])
    assert torch.autograd.gradcheck(lambda x: class_medians(x, y, 2), features)
    same = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(class_medians(same, y[:4], 1).sum(), same)
    assert gradient.isfinite().all()


def test_many_tasks_at_once_are_each_alone():
    torch.manual_seed(0)
    features, y = torch.randn(3, 6, 2), torch.tensor([[0, 0, 0, 0, 1, 1], [0, 1, 0, 1, 0, 1], [1, 1, 1, 1, 1, 0]])
    together = torch.vmap(lambda x, labels: class_medians(x, labels, 2))(features, y)
    alone = torch.stack([class_medians(x, labels, 2) for x, labels in zip(features, y, strict=True)])
    torch.testing.assert_close(together, alone)
