"""The convolution's derivatives, of every order and under every vmap, are those of torch's own."""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import resnet18

from metalab.engines.vectorized import Vectorized
from metalab.models import conv_im2col
from metalab.models.conv_autograd import Conv2d, convert_conv, convolution
from metalab.models.layers import convert
from tests.engines import tasks
from tests.models.test_batch_norm_autograd import again, assert_near


def tensors(*leading: int | None, groups: int = 1) -> list[Tensor]:
    """Return images, kernels and bias; a number is the tasks of that one, None: it has none."""
    generator = torch.Generator().manual_seed(0)
    shapes = (3, 4, 5, 5), (6, 4 // groups, 3, 3), (6,)
    shapes = [(t, *s) if t else s for t, s in zip(leading or (None,) * 3, shapes, strict=True)]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 1, 1), (2, 1, 1), (2, 0, 2), (1, 0, 1)])
def test_it_is_torchs_convolution_and_its_derivatives_are_those_of_finite_differences(stride, padding, groups, bias):
    at = [t.requires_grad_() for t in tensors(groups=groups)[: 3 if bias else 2]]

    def ours(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return convolution(x, weight, bias, (stride, stride), (padding, padding), groups)

    assert torch.equal(ours(*at), F.conv2d(*at, stride=stride, padding=padding, groups=groups))  # type: ignore[call-overload]
    assert torch.autograd.gradcheck(ours, at, fast_mode=True)
    assert torch.autograd.gradgradcheck(ours, at, fast_mode=True)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("leading", [d for d in product([2, None], repeat=3) if any(d)])
def test_tasks_at_once_are_tasks_apart(leading, groups):
    """Second order: an inner gradient under vmap, the outer one around it."""
    at = tensors(*leading, groups=groups)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return convolution(x, weight, bias, (2, 2), (1, 1), groups)

    def theirs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, 2, 1, groups=groups)

    gradients = []
    for f in (ours, theirs):
        inner = vmap(again(f, 1), tuple(0 if t else None for t in leading))
        gradients.append(grad(lambda *a, inner=inner: inner(*a).sum(), (0, 1, 2))(*at))
    assert_near(*gradients)


def test_the_third_derivative_and_tasks_of_tasks():
    x, weight, bias = tensors(2, None, None)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return convolution(x, weight, bias, (1, 1), (1, 1))

    def theirs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=1)

    gradients = []
    for f in (ours, theirs):
        one = vmap(vmap(again(f, 2), (0, None, None)), (0, None, None))
        gradients.append(grad(lambda a, one=one: one(a, weight, bias).sum())(x[:, :, None]))
    assert_near(gradients[:1], gradients[1:])


class Convolutions(TorchDispatchMode):
    """Count the convolutions, each first derivative for itself, and keep their kernels' sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.largest = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.count += 1
            self.largest = max(self.largest, args[1].shape[-1])
        elif func is torch.ops.aten.convolution_backward.default:
            self.count += sum(args[-1][:2])
        return func(*args, **(kwargs or {}))


def counted(tasks_: int, steps: int) -> Convolutions:
    algorithm, _ = tasks.ALGORITHMS["maml"]
    batch = tasks.Episode(*(tasks.Batch(*(t[:tasks_] for t in b)) for b in tasks.episodes()))
    with Convolutions() as seen:
        tasks.gradient(Vectorized(None), tasks.net_of(algorithm), tasks.objective(algorithm, steps), batch)
    return seen


def test_a_second_order_meta_step_has_as_many_convolutions_whatever_the_tasks_are():
    """torch's own derivative takes more with each task from the second step on, with kernels as large as the map."""
    few, many = counted(2, 3), counted(5, 3)
    assert few.count == many.count
    assert many.largest == 3
    # 4 layers; 3 inner steps, each with the output and the kernels' gradient, all but the first layer the images' too;
    # each of these three forms has two derivatives in the outer backward, and the queries have the usual three
    assert many.count <= 3 * 4 * 9 + 4 * 3


def test_autocast_is_torchs():
    at = x, weight, bias = [t.float().requires_grad_() for t in tensors()]
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = convolution(x, weight, bias, (1, 1), (1, 1)), F.conv2d(x, weight, bias, padding=1)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)
    grads = [torch.autograd.grad(y.float().square().sum(), at, create_graph=True) for y in (ours, theirs)]
    for mine, other in zip(*grads, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - other).norm() < 0.01 * other.norm()


def test_a_net_is_given_them_and_keeps_its_tensors():
    net = resnet18(weights=None)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    made = convert(net)
    assert all(isinstance(m, Conv2d) for m in made.modules() if isinstance(m, nn.Conv2d))
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
    other = nn.Conv2d(2, 2, 3, dilation=2)
    assert convert_conv(other) is other


@pytest.mark.parametrize(
    ("stride", "padding", "kernel"), [((1, 1), (1, 1), 3), ((2, 2), (1, 1), 3), ((1, 2), (0, 1), 2)]
)
def test_products_over_columns_are_the_convolution_and_its_derivatives(stride, padding, kernel):
    """What a GPU takes for small convolutions in groups."""
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, weight, bias = made(3, 4, 5, 7), made(6, 2, kernel, kernel), made(6)
    expected = F.conv2d(x, weight, bias, stride, padding, groups=2)
    g = made(*expected.shape)
    mask = [True, True, False]
    images, kernels, _ = torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, [1, 1], False, [0, 0], 2, mask
    )
    assert_near([conv_im2col.output(x, weight, bias, stride, padding, 2)], [expected])
    assert_near([conv_im2col.output(x, weight, None, stride, padding, 2)], [expected - bias.view(1, -1, 1, 1)])
    assert_near([conv_im2col.input_gradient(g, weight, x.shape, stride, padding, 2)], [images])
    assert_near([conv_im2col.weight_gradient(g, x, weight.shape, stride, padding, 2)], [kernels])
    assert_near(
        [conv_im2col.output(x.to(memory_format=torch.channels_last), weight, bias, stride, padding, 2)], [expected]
    )


def test_a_meta_step_by_columns_is_the_meta_step(monkeypatch):
    algorithm, steps = tasks.ALGORITHMS["maml"]
    made = []
    for always in (False, True):
        monkeypatch.setattr(conv_im2col, "is_faster", lambda *_, on=always: on)
        net, what = tasks.net_of(algorithm), tasks.objective(algorithm, steps)
        made.append(tasks.gradient(Vectorized(None), net, what, tasks.episodes())[1])
    assert tasks.farthest(*made) < 1e-10


@pytest.mark.parametrize("second", [False, True])
def test_one_channels_last_map_keeps_all_that_follows_channels_last(second):
    """Images are not, kernels of the loop and what they make are: else each gradient of the first layer is laid out
    anew, and the second derivatives go on in the other layout.
    """
    x, weight, bias = (t.float() for t in tensors())
    weight = weight.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = convolution(x, weight, bias, (1, 1), (1, 1))
    assert y.is_contiguous(memory_format=torch.channels_last)
    (of_weight,) = torch.autograd.grad(y.square().sum(), weight, create_graph=True)
    if second:
        (of_weight,) = torch.autograd.grad(of_weight.square().sum(), weight)
    assert of_weight.is_contiguous(memory_format=torch.channels_last)
    assert not of_weight.is_contiguous()
