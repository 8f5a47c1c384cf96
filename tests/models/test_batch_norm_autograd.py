"""The norm's derivatives, of every order and under every vmap, are those of the formula written out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from metalab.models.batch_norm_autograd import differentiable_batch_norm, normalized

EPS = 1e-2  # large enough that a derivative which forgets it is seen


def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return normalized(x, weight, bias, EPS)


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return differentiable_batch_norm(x, weight, bias, EPS)


def tensors(*shape: int, tasks: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((tasks, *shape), (tasks, shape[1]), (tasks, shape[1]))
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def again(function, order: int) -> Callable[..., Any]:
    """Return the sum of squares of all gradients, taken so many times."""
    if order == 0:
        return lambda *at: (function(*at) ** 3).sum()
    below = again(function, order - 1)
    return lambda *at: sum(g.square().sum() for g in grad(below, (0, 1, 2))(*at))


def assert_near(mine, theirs) -> None:
    for a, b in zip(mine, theirs, strict=True):
        assert (a - b).abs().max() < 1e-10 * max(1, b.abs().max())


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (6, 2)])
def test_it_is_torchs_batch_norm_and_its_derivatives_are_those_of_finite_differences(shape):
    at = [t[0].requires_grad_() for t in tensors(*shape)]
    assert torch.equal(ours(*at), F.batch_norm(at[0], None, None, at[1], at[2], training=True, eps=EPS))
    assert torch.autograd.gradcheck(ours, at)
    assert torch.autograd.gradgradcheck(ours, at)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_derivatives_up_to_the_third_are_those_of_the_formula(order):
    at = [t[0] for t in tensors(3, 2, 4, 4)]
    assert_near(*(grad(again(f, order), (0, 1, 2))(*at) for f in (ours, plain)))


@pytest.mark.parametrize("dims", [(0, 0, 0), (0, None, 0), (0, None, None), (None, 0, 0), (None, None, 0)])
@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (6, 2)])
def test_tasks_side_by_side_are_tasks_apart(shape, dims):
    """Second order: an inner gradient under vmap, the outer one around it."""
    at = [t if d == 0 else t[0] for t, d in zip(tensors(*shape), dims, strict=True)]
    gradients = []
    for f in (ours, plain):
        inner = vmap(again(f, 1), dims)
        gradients.append(grad(lambda *a, inner=inner: inner(*a).sum(), (0, 1, 2))(*at))
    assert_near(*gradients)


def test_vmap_in_vmap():
    x, weight, bias = tensors(2, 3, 2, 4, 4)
    gradients = []
    for f in (ours, plain):
        inner = vmap(vmap(again(f, 1), (0, None, None)), (0, None, None))
        gradients.append(grad(lambda a, inner=inner: inner(a, weight[0, :2], bias[0, :2]).sum())(x))
    assert_near(gradients[:1], gradients[1:])


def test_torchs_own_under_vmap_is_wrong_in_second_order():
    """Should this fail, torch is mended and norm.py can go."""
    at = tensors(3, 2, 4, 4)

    def theirs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)

    right, wrong = (grad(lambda *a, f=f: vmap(again(f, 1))(*a).sum())(*at) for f in (ours, theirs))
    assert (right - wrong).abs().max() > 1e-3 * right.abs().max()
