"""FAB: its step against a linear and a quadratic program, its change against torchattacks' and a linear model's."""

import numpy as np
import pytest
import torch
import torchattacks
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from metalab.attacks.base import Norm, l2_norm
from metalab.attacks.fab import FAB, onto_boundary


def smallest(x: np.ndarray, slope: np.ndarray, value: float, norm: Norm) -> float:
    """Return the size of the smallest change of x within [0, 1] that brings value + slope . change to 0, by scipy."""
    n = len(x)
    ends = list(zip(-x, 1 - x, strict=True))
    if norm == "linf":
        eye, size = np.eye(n), -np.ones((n, 1))
        below, least = np.block([[eye, size], [-eye, size]]), [0] * n + [1]
        on = {"A_eq": [[*slope, 0]], "b_eq": [-value]}
        return linprog(least, A_ub=below, b_ub=np.zeros(2 * n), **on, bounds=[*ends, (0, None)]).fun
    plane = {"type": "eq", "fun": lambda change: slope @ change + value, "jac": lambda _: slope}
    found = minimize(
        lambda change: change @ change, np.zeros(n), jac=lambda change: 2 * change, constraints=[plane], bounds=ends
    )
    return found.fun**0.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_way_to_the_boundary_is_the_shortest_inside_the_images(norm):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 1, 2, 3, generator=generator, dtype=torch.float64)
    slope = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    slope[:, :, 0, 0] = 0.0  # a pixel that the model does not see
    value = torch.randn(12, generator=generator, dtype=torch.float64) / 2
    change = onto_boundary(x, slope, value, norm)
    assert (x + change).min() >= 0
    assert (x + change).max() <= 1
    torch.testing.assert_close(value + (slope * change).flatten(1).sum(1), torch.zeros_like(value))
    sizes = change.abs().flatten(1).amax(1) if norm == "linf" else l2_norm(change)
    for image, size in enumerate(sizes.tolist()):
        flat = x[image].flatten().numpy(), slope[image].flatten().numpy()
        assert size == pytest.approx(smallest(*flat, value[image].item(), norm), rel=1e-4)


def test_a_boundary_out_of_reach_moves_every_pixel_to_its_end():
    x, slope = torch.tensor([0.2, 0.7]).reshape(1, 1, 1, 2), torch.tensor([1.0, -2.0]).reshape(1, 1, 1, 2)
    for norm in ("linf", "l2"):
        change = onto_boundary(x, slope, torch.tensor([-100.0]), norm)  # type: ignore[arg-type]
        torch.testing.assert_close(x + change, torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2))


def test_a_linear_models_boundary_is_found_exactly():
    """The two logits are 0 and w . x - 1; the smallest change is |w . x - 1| / sum |w|, within a few per cent."""
    w, x = torch.tensor([1.0, 2.0, -0.5, 0.3]), torch.full((1, 1, 2, 2), 0.5)

    def model(images: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(images)), images.flatten(1) @ w - 1], 1)

    truth = abs(x.flatten() @ w - 1) / w.abs().sum()
    moved = FAB(1.0, "linf", 20, 1, 9)(model, x, torch.tensor([1]))
    assert model(moved).argmax(1).item() == 0
    assert 1.0 <= (moved - x).abs().max() / truth < 1.06


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_its_changes_are_as_small_as_those_of_torchattacks(norm, trained):
    net, (x, y, _) = trained
    theirs = torchattacks.FAB(nn.Sequential(net), norm.capitalize(), 1e9, 20, 1, n_classes=5, multi_targeted=True)
    torch.manual_seed(0)
    sizes = []
    for moved in (FAB(255.0, norm, 20, 1, 9)(net, x, y), theirs(x, y)):
        right = net(x).argmax(1) == y
        assert (net(moved).argmax(1) != y)[right].all()
        change = moved - x
        sizes.append((change.abs().flatten(1).amax(1) if norm == "linf" else l2_norm(change))[right])
    assert (sizes[0] / sizes[1]).median().item() == pytest.approx(1.0, abs=0.02)
    assert sizes[0].mean().item() == pytest.approx(sizes[1].mean().item(), rel=0.02)
