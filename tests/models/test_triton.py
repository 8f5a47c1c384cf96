"""The Triton kernels: on a GPU as they are, elsewhere by Triton's interpreter, they compute what torch computes."""

import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from metalab.engines.precision import tf32
from metalab.engines.vectorized import Vectorized
from metalab.models import batch_norm_triton, conv_triton
from metalab.models.batch_norm_autograd import BatchNormBackward, BatchNormDoubleBackward, BatchNormForward
from metalab.models.batch_norm_pool_autograd import (
    BatchNormPoolBackward,
    BatchNormPoolDoubleBackward,
    BatchNormPoolForward,
    pooled,
)
from tests.engines.tasks import episodes as drawn
from tests.engines.tasks import of

ATEN, LAST = torch.ops.aten, torch.channels_last
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
INTERPRETED = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="run by test_by_tritons_interpreter, in a process of its own"
)
# groups, channels and filters of each, kernel, stride, padding, height, width, images
SHAPES = [
    (2, 3, 32, 3, 1, 1, 10, 9, 3),
    (2, 32, 32, 3, 1, 1, 7, 8, 2),
    (3, 1, 64, 3, 2, 1, 9, 9, 2),
    (2, 64, 64, 3, 2, 1, 7, 7, 2),
    (2, 5, 7, 3, 1, 0, 6, 6, 2),
    (2, 16, 24, 1, 1, 0, 5, 5, 2),
    (2, 32, 16, 5, 1, 2, 8, 8, 2),
    (2, 4, 8, 3, 2, 1, 8, 7, 2),
    (2, 48, 40, 3, 1, 1, 5, 6, 1),
    (2, 32, 64, 3, 1, 1, 1, 1, 3),
    (2, 16, 16, 3, 1, 1, 1, 7, 2),
]


@pytest.fixture(params=[pytest.param("cpu", marks=INTERPRETED), pytest.param("cuda", marks=GPU)])
def device(request) -> torch.device:
    """Where the kernels run."""
    return torch.device(request.param)


@pytest.mark.slow
def test_by_tritons_interpreter():
    """The tests of this file where there is no GPU; triton has to be told before it is imported."""
    pytest.importorskip("triton")
    words = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__, "-k", "cpu"]
    done = subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def near(mine: Tensor, exact: Tensor, far: float = 2e-6) -> bool:
    """Whether a float32 tensor is the float64 one to rounding."""
    return bool((mine.double() - exact).norm() <= far * exact.norm() + 1e-12)


def test_where_it_does_not_run_torchs_kernels_are_taken(monkeypatch, caplog):
    """As on a machine without a C compiler; here there is no GPU to find, or the driver's first call fails."""
    driver = pytest.importorskip("triton").runtime.driver

    def missing() -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(type(driver), "active", property(lambda _: missing()))
    conv_triton.available.cache_clear()
    with caplog.at_level("INFO", "metalab"):
        assert [conv_triton.available(torch.device("cuda", 0)) for _ in range(3)] == [False] * 3
    conv_triton.available.cache_clear()
    assert caplog.text.count("Triton does not run here (Failed to find C compiler. Please specify") == 1


@pytest.mark.parametrize(
    ("capability", "version", "taken"),
    [((7, 0), "3.6.0", False), ((8, 0), "3.3.0", True), ((9, 0), "3.6.0+git1", True), ((9, 0), "3.2.0", False)],
)
def test_it_takes_gpus_with_tf32_and_a_triton_that_compiles_all(capability, version, taken, monkeypatch):
    triton = pytest.importorskip("triton")
    driver = triton.runtime.driver
    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(type(driver), "active", property(lambda _: SimpleNamespace(get_current_target=lambda: None)))
    conv_triton.available.cache_clear()
    assert conv_triton.available(torch.device("cuda", 0)) == taken
    conv_triton.available.cache_clear()
    assert not conv_triton.available(torch.device("cpu"))


def test_what_is_too_large_too_wide_or_too_thin_is_not_taken(monkeypatch):
    """Offsets are of 32 bits, a grid has 65,535 places, and other widths than 16 to 64 were not measured."""
    monkeypatch.setattr(conv_triton, "takes_maps", lambda _: True)
    of, one, zero = torch.empty(1), (1, 1), (0, 0)
    images = (300, 128, 84, 84)
    for taken, shape, weight, stride, padding, groups in (
        (True, images, (128, 32, 3, 3), one, one, 4),
        (True, (300, 12, 84, 84), (256, 3, 3, 3), one, one, 4),
        (False, images, (32, 128, 3, 3), one, one, 1),
        (False, images, (512, 128, 3, 3), one, one, 4),
        (False, images, (1024, 32, 3, 3), one, one, 4),  # 256 filters each
        (False, images, (128, 32, 3, 3), (2, 1), one, 4),
        (False, (2400, 128, 84, 84), (128, 32, 3, 3), one, one, 4),
        (False, (1200, 256, 84, 84), (256, 64, 3, 3), one, zero, 4),  # its images, not its output
        (False, (300, 12, 84, 84), (256, 3, 3, 3), one, (200, 200), 4),  # its output alone
        (False, (100, 96, 42, 42), (96, 1, 3, 3), one, one, 96),  # depthwise
        (False, (2, 64 * 2000, 9, 9), (64 * 2000, 64, 3, 3), one, one, 2000),
    ):
        assert conv_triton.takes(of, shape, weight, stride, padding, groups) == taken, (shape, weight)


@pytest.mark.parametrize(("fast", "far"), [(False, 2e-6), (True, 2e-3)], ids=["float32", "tf32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_convolution_and_its_derivatives_are_torchs(shape, fast, far, device):
    if fast and device.type == "cpu":
        pytest.skip("the interpreter multiplies in float32 alone")
    g, c, o, k, s, p, h, w, n = shape
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*size, dtype=torch.float64, device=device) for size in
                       ((n, g * c, h, w), (g * o, c, k, k), (g * o,)))  # fmt: skip
    how = ([s, s], [p, p], [1, 1], False, [0, 0], g)
    y = ATEN.convolution(x, weight, bias, *how)
    gy = torch.randn_like(y)
    expected = ATEN.convolution_backward(gy, x, weight, [g * o], *how, [True] * 3)
    x, weight, bias, gy = (t.float() for t in (x, weight, bias, gy))
    with tf32(fast):
        assert near(conv_triton.output(x, weight, bias, (s, s), (p, p), g), y, far)
        assert near(conv_triton.input_gradient(gy, weight, x.shape, (s, s), (p, p), g), expected[0], far)
        for mine, exact in zip(
            conv_triton.weight_gradient(gy, x, weight.shape, True, (s, s), (p, p), g), expected[1:], strict=True
        ):
            assert near(mine, exact, far)


def test_a_bias_that_all_groups_share_is_read_where_it_is(device):
    """Expanded, it has one number in memory."""
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*size, device=device) for size in ((2, 6, 5, 5), (32, 3, 3, 3), (1,)))
    expected = ATEN.convolution(*(t.double() for t in (x, weight)), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 2)
    with tf32(False):
        got = conv_triton.output(x, weight, bias.expand(32), (1, 1), (1, 1), 2)
    assert near(got, expected + bias.double())


def test_the_pooled_norms_derivative_is_right_for_several_gradients_at_once(device, monkeypatch):
    """As torch.func.jacrev has it: vmap copies what it expands, in another layout."""
    monkeypatch.setattr(batch_norm_triton, "takes", lambda x: x.dtype == torch.float32)
    torch.manual_seed(0)
    x, gs = torch.randn(3, 4, 6, 6, device=device), torch.randn(2, 3, 4, 3, 3, device=device)
    weight, bias = torch.randn(4, device=device), torch.randn(4, device=device)
    found = []
    for dtype in (torch.float64, torch.float32):
        at = (x.to(dtype).contiguous(memory_format=LAST), weight.to(dtype), bias.to(dtype))
        back: Any = torch.func.vjp(partial(pooled, eps=1e-5), *at)[1]
        found.append(torch.func.vmap(back)(gs.to(dtype)))
    for exact, mine in zip(*found, strict=True):
        assert near(mine, exact)


@pytest.mark.parametrize("size", [(3, 40, 9, 7), (5, 128, 6, 6), (2, 4, 21, 20)], ids=str)
def test_a_norm_with_its_derivatives_is_torchs(size, device):
    torch.manual_seed(0)
    d = size[1]
    x, a, g = (torch.randn(*size, dtype=torch.float64, device=device) for _ in range(3))
    x = 2 * x + 1
    weight, bias, to_weight, to_bias = (torch.randn(d, dtype=torch.float64, device=device) for _ in range(4))
    _, mean, inverse = BatchNormForward.forward(x, weight, bias, 1e-5)
    first = BatchNormBackward.forward(g, x, weight, mean, inverse, 1e-5)
    second = BatchNormDoubleBackward.forward(a, to_weight, to_bias, g, x, weight, mean, inverse, *first[1:], 1e-5)
    x, a, g = (t.float().contiguous(memory_format=LAST) for t in (x, a, g))
    weight, to_weight, to_bias, mean, inverse = (t.float() for t in (weight, to_weight, to_bias, mean, inverse))
    mine = batch_norm_triton.backward(g, x, None, weight, mean, inverse)
    assert all(map(near, mine, first))
    twice = batch_norm_triton.double_backward(a, to_weight, to_bias, g, x, None, weight, mean, inverse, *mine[1:])
    assert all(map(near, twice, second))


@pytest.mark.parametrize("size", [(3, 40, 9, 7), (5, 128, 6, 6), (2, 4, 21, 20)], ids=str)
def test_a_norm_that_is_pooled_with_its_derivatives_is_torchs(size, device):
    torch.manual_seed(0)
    d, w = size[1], size[3]
    x, a = (torch.randn(*size, dtype=torch.float64, device=device) for _ in range(2))
    x = 2 * x + 1
    weight, bias, to_weight, to_bias = (torch.randn(d, dtype=torch.float64, device=device) for _ in range(4))
    y, mean, inverse, at = BatchNormPoolForward.forward(x, weight, bias, 1e-5)
    g, alive = torch.randn_like(y), y > 0
    first = BatchNormPoolBackward.forward(g, x, weight, mean, inverse, at, alive, 1e-5)
    given = (a, to_weight, to_bias, g, x, weight, mean, inverse, at, alive, *first[1:], 1e-5)
    second = BatchNormPoolDoubleBackward.forward(*given)
    x, a, g = (t.float().contiguous(memory_format=LAST) for t in (x, a, g))
    weight, bias, to_weight, to_bias = (t.float() for t in (weight, bias, to_weight, to_bias))
    found, mean, inverse, marks = batch_norm_triton.forward(x, weight, bias, 1e-5)
    assert near(found, y)
    places, living = batch_norm_triton.positions(marks, w)
    assert torch.equal(living, alive)
    assert torch.equal(places[alive], at[alive])
    mine = batch_norm_triton.backward(g, x, marks, weight, mean, inverse)
    assert all(map(near, mine, first))
    twice = batch_norm_triton.double_backward(a, to_weight, to_bias, g, x, marks, weight, mean, inverse, *mine[1:])
    assert all(map(near, twice, second))


def test_of_equal_pixels_the_first_is_the_maximum_and_nan_stays(device):
    x = torch.ones(1, 2, 4, 4, device=device).contiguous(memory_format=LAST)
    x[:, 0] = torch.tensor([[0.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 5]])
    y, *_, at = batch_norm_triton.forward(x, torch.ones(2, device=device), torch.ones(2, device=device), 1e-5)
    assert at[0, 0].tolist() == [[4, 0], [0, 3]]
    assert y[0, 0, 0, 0] == 0
    assert at[0, 1].tolist() == [[0, 0], [0, 0]]
    x[0, 1, 1, 1] = float("nan")
    assert torch.isnan(
        batch_norm_triton.forward(x, torch.ones(2, device=device), torch.ones(2, device=device), 1e-5)[0][0, 1]
    ).all()


@pytest.mark.parametrize("case", ["maml", "protonet"])
def test_a_meta_step_is_as_near_to_float64_as_without_them(case, device, monkeypatch):
    monkeypatch.setattr(conv_triton, "LEAST", 1)  # the net is small
    calls: list[str] = []
    for name in ("output", "input_gradient", "weight_gradient"):
        whole = getattr(conv_triton, name)
        monkeypatch.setattr(conv_triton, name, lambda *a, name=name, whole=whole: calls.append(name) or whole(*a))
    gradients = {}
    for kind in (torch.float64, torch.float32, "triton"):
        here = partial(lambda on, x: on and x.dtype == torch.float32, kind == "triton")
        monkeypatch.setattr(conv_triton, "takes_maps", here)
        monkeypatch.setattr(
            batch_norm_triton,
            "takes",
            lambda x, here=here: (
                here(x) and x.dim() == 4 and x.is_contiguous(memory_format=LAST) and min(x.shape[2:]) > 1
            ),
        )
        net, what = of(case)
        dtype = torch.float64 if kind is torch.float64 else torch.float32
        net, batch = net.to(device, dtype), drawn(dtype)
        batch = type(batch)(*(type(b)(*(t.to(device) for t in b)) for b in batch))
        Vectorized(None).grad(what, net, batch, torch.zeros((), dtype=torch.float64, device=device))
        gradients[kind] = torch.cat([p.grad.flatten().double() for p in net.parameters() if p.grad is not None])
    assert set(calls) == {"output", "input_gradient", "weight_gradient"}
    exact = gradients.pop(torch.float64)
    plain, mine = ((g - exact).norm() / exact.norm() for g in gradients.values())
    assert mine < max(3 * plain, 1e-5)
