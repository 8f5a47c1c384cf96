"""The cosine probe's weights are those that SciPy finds for the same problem."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from metalab.algorithms.components.solvers.cosine_regression import cosine_regression
from metalab.algorithms.components.solvers.logistic_regression import FOLDS, GRID, chosen_c
from tests.algorithms.test_linear_probe import SIZE, WAY, drawn

SCALE = 10.0


def theirs(f: Tensor, y: Tensor, c: float) -> np.ndarray:
    """Return W [K,D] by L-BFGS on free vectors that are made of length SCALE, from the class means."""
    means = SCALE * F.normalize(torch.stack([f[y == k].mean(0) for k in range(WAY)]), dim=1)

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.from_numpy(flat).view(WAY, SIZE).requires_grad_()
        weight = SCALE * F.normalize(free, dim=1)
        loss = (weight - means).square().sum() / 2 + c * F.cross_entropy(f @ weight.T, y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, free)
        return loss.item(), gradient.flatten().numpy()

    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10}
    found = minimize(value, means.flatten().numpy(), jac=True, method="L-BFGS-B", options=options)
    return F.normalize(torch.from_numpy(found.x).view(WAY, SIZE), dim=1).numpy() * SCALE


@pytest.mark.parametrize("c", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_weights_are_those_of_another_solver(c, noise):
    f, y = drawn([5] * 4, noise, 0)
    ours, bias = cosine_regression(f, y, WAY, c, 2000, scale=SCALE)
    assert ours.numpy() == pytest.approx(theirs(f, y, c), abs=1e-4)
    assert not bias.any()


def test_little_weight_of_the_data_leaves_the_nearest_mean():
    f, y = drawn([5] * 4, 0.5, 0)
    weight, _ = cosine_regression(f, y, WAY, 1e-9, 200, scale=SCALE)
    means = F.normalize(torch.stack([f[y == k].mean(0) for k in range(WAY)]), dim=1)
    torch.testing.assert_close(weight, SCALE * means)


def test_the_yaml_iterations_are_enough():
    f, y = drawn([5] * 4, 0.5, 0)
    for c in GRID[::3]:
        some, _ = cosine_regression(f, y, WAY, c, 200, scale=SCALE)
        more, _ = cosine_regression(f, y, WAY, c, 3000, scale=SCALE)
        assert (f @ (some - more).T).abs().max() < 0.01


@pytest.mark.parametrize(("counts", "noise"), [([3] * 4, 0.5), ([2, 3, 4, 5], 0.5)])
def test_c_is_the_one_that_predicts_held_out_images_best(counts, noise):
    f, y = drawn(counts, noise, 1)
    folds, found = min(FOLDS, len(y) // WAY), np.zeros(len(GRID))
    place = np.array([int((y[:i] == y[i]).sum()) for i in range(len(y))])
    for fold in range(folds):
        left = torch.from_numpy(place % folds != fold)
        judged = [i for i in range(len(y)) if not left[i] and bool((y[left] == y[i]).any())]
        for i, c in enumerate(GRID):
            weight = torch.from_numpy(theirs(f[left], y[left], c))
            found[i] += F.cross_entropy(f[judged] @ weight.T, y[judged], reduction="sum").item()

    def fit(*given):
        return cosine_regression(*given, scale=SCALE)

    assert GRID[int(found.argmin())] == pytest.approx(chosen_c(f, y, WAY, 1000, fit).item())
    assert len({round(float(value), 3) for value in found}) > 1
