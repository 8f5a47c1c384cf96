"""The Triton kernels: on a GPU as they are, elsewhere by Triton's interpreter, they compute what torch computes."""

import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

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


def near(mine: Tensor, exact: Tensor) -> bool:
    """Whether a float32 tensor is the float64 one to rounding."""
    return bool((mine.double() - exact).norm() <= 2e-6 * exact.norm() + 1e-12)


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


@pytest.mark.parametrize(("capability", "taken"), [((7, 0), False), ((8, 0), True), ((9, 0), True)])
def test_it_takes_gpus_with_tf32(capability, taken, monkeypatch):
    driver = pytest.importorskip("triton").runtime.driver
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(type(driver), "active", property(lambda _: SimpleNamespace(get_current_target=lambda: None)))
    conv_triton.available.cache_clear()
    assert conv_triton.available(torch.device("cuda", 0)) == taken
    conv_triton.available.cache_clear()
    assert not conv_triton.available(torch.device("cpu"))


def test_large_maps_and_wide_groups_are_not_taken(monkeypatch):
    """Offsets are of 32 bits, and more than 64 channels were not measured."""
    monkeypatch.setattr(conv_triton, "takes_maps", lambda _: True)
    maps, one = torch.empty(1).expand(300, 128, 84, 84), (1, 1)
    assert conv_triton.takes(maps, (128, 32, 3, 3), one, 4)
    assert not conv_triton.takes(maps, (128, 32, 3, 3), one, 1)
    assert not conv_triton.takes(maps, (128, 128, 3, 3), one, 4)
    assert not conv_triton.takes(maps, (1024, 32, 3, 3), one, 4)
    assert not conv_triton.takes(maps, (128, 32, 3, 3), (2, 1), 4)
    assert not conv_triton.takes(maps[:1].expand(2400, 128, 84, 84), (128, 32, 3, 3), one, 4)
    assert not conv_triton.takes(maps[:, :12], (4 * 64, 3, 3, 3), (4, 4), 4)  # a gradient's images are larger


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_convolution_and_its_derivatives_are_torchs(shape, device):
    g, c, o, k, s, p, h, w, n = shape
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*size, dtype=torch.float64, device=device) for size in
                       ((n, g * c, h, w), (g * o, c, k, k), (g * o,)))  # fmt: skip
    how = ([s, s], [p, p], [1, 1], False, [0, 0], g)
    y = ATEN.convolution(x, weight, bias, *how)
    gy = torch.randn_like(y)
    expected = ATEN.convolution_backward(gy, x, weight, [g * o], *how, [True] * 3)
    x, weight, bias, gy = (t.float() for t in (x, weight, bias, gy))
    with tf32(False):
        assert near(conv_triton.output(x, weight, bias, (s, s), (p, p), g), y)
        assert near(conv_triton.input_gradient(gy, weight, x.shape, (s, s), (p, p), g), expected[0])
        for mine, exact in zip(
            conv_triton.weight_gradient(gy, x, weight.shape, True, (s, s), (p, p), g), expected[1:], strict=True
        ):
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
    gradients = {}
    for kind in (torch.float64, torch.float32, "triton"):
        here = partial(lambda on, x, *_: on and x.dtype == torch.float32, kind == "triton")
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
    exact = gradients.pop(torch.float64)
    plain, mine = ((g - exact).norm() / exact.norm() for g in gradients.values())
    assert mine < max(3 * plain, 1e-5)
