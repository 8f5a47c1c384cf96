"""Norm, pooling and ReLU in one: its derivatives, of every order and under vmap, are those of the three apart."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from metalab.models.backbones import ConvBlock
from metalab.models.batch_norm_autograd import differentiable_batch_norm
from metalab.models.batch_norm_pool_autograd import maxima, pooled
from metalab.models.layers import BatchStatNorm, running_statistics, support_statistics
from tests.models.test_batch_norm_autograd import EPS, again, assert_near, tensors

SHAPES = [(3, 2, 4, 4), (3, 2, 5, 7)]  # the last row and column of an odd map are in no window


def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return pooled(x, weight, bias, EPS)


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.max_pool2d(differentiable_batch_norm(x, weight, bias, EPS).relu(), 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_its_derivatives_are_those_of_finite_differences(shape):
    at = [t[0].requires_grad_() for t in tensors(*shape)]
    assert (ours(*at) - plain(*at)).abs().max() < 1e-12
    assert (ours(*at) == 0).any()  # some of it the ReLU leaves out
    assert torch.autograd.gradcheck(ours, at)
    assert torch.autograd.gradgradcheck(ours, at)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_up_to_the_third_are_those_of_the_three_apart(shape, order):
    at = [t[0] for t in tensors(*shape)]
    assert_near(*(grad(again(f, order), (0, 1, 2))(*at) for f in (ours, plain)))


@pytest.mark.parametrize("dims", [(0, 0, 0), (0, None, 0), (0, None, None), (None, 0, 0), (None, None, 0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_tasks_side_by_side_are_tasks_apart(shape, dims):
    """Second order: an inner gradient under vmap, the outer one around it."""
    at = [t if d == 0 else t[0] for t, d in zip(tensors(*shape), dims, strict=True)]
    gradients = []
    for f in (ours, plain):
        inner = vmap(again(f, 1), dims)
        gradients.append(grad(lambda *a, inner=inner: inner(*a).sum(), (0, 1, 2))(*at))
    assert_near(*gradients)


def test_equal_pixels_hand_their_gradient_to_the_first_as_torchs_pooling_does():
    """Half of a drawing is blank, and there all pixels of a window are equal."""
    x = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    x[0, 0, 3, 3] = 1.0
    at = [x, torch.tensor([-2.0], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)]
    assert_near(*(grad(lambda *a, f=f: (f(*a) ** 3).sum(), (0, 1, 2))(*at) for f in (ours, plain)))


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 3, 5, 7), (1, 2, 2, 3), (1, 1, 300, 2)])
def test_maxima_and_their_places_are_torchs(shape):
    torch.manual_seed(0)
    for x in (torch.randn(shape), torch.randint(0, 2, shape).float()):  # of two numbers most are equal
        expected = F.max_pool2d(x, 2, return_indices=True)
        for layout in (torch.contiguous_format, torch.channels_last):
            y, at = maxima(x.contiguous(memory_format=layout))
            assert torch.equal(y, expected[0])
            assert torch.equal(at, expected[1])


def test_a_number_that_is_none_stays_one():
    x = torch.rand(2, 1, 4, 4)
    x[0, 0, 0, 0] = torch.nan
    assert pooled(x, torch.ones(1), torch.zeros(1), EPS).isnan().all()


@pytest.mark.parametrize("mode", ["batch", "support", "running"])
@pytest.mark.parametrize("pool", [True, False])
def test_a_block_is_its_layers_in_every_mode(pool, mode):
    torch.manual_seed(0)
    block = ConvBlock(2, 3, 1, pool).double()
    norm = block[1]
    assert isinstance(norm, BatchStatNorm)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    x = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    apart = nn.Sequential(block[0], norm, *([nn.MaxPool2d(2)] if pool else []), nn.ReLU())
    with {"batch": support_statistics(5), "support": support_statistics(2), "running": running_statistics()}[mode]:
        assert (block(x) - apart(x)).abs().max() < 1e-12
    assert (block(x) - apart(x)).abs().max() < 1e-12
    assert sum(p.numel() for p in block.state_dict().values()) == 3 * 2 * 9 + 3 + 4 * 3
