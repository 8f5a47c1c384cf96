"""Convolutions in groups on a GPU by kernels of our own (kernels/conv.py), over maps that are channels-last.

Where each task has kernels of its own, a convolution of T tasks in T groups is what is left of a meta-step. cuDNN takes
many small kernels and reorderings for one; here it is one implicit matrix product: a tile of pixels by the filters of
one group, over the kernel's taps and the group's channels. The kernels' gradient is a product over the pixels, shared
among programs whose parts are summed afterwards, in the same order every time.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

Pair = tuple[int, int]
LAST = torch.channels_last
MOST = 64  # channels and filters of a group up to which these kernels are faster


class Tile(NamedTuple):
    """How many pixels, channels and filters a program takes at once."""

    pixels: int
    channels: int
    filters: int
    warps: int
    stages: int


MAPS = Tile(64, 32, 64, 4, 3)
FEW = Tile(64, 32, 64, 4, 3)  # of the kernels' gradient, with up to 32 channels or filters
FEW_EXACT = Tile(32, 32, 64, 4, 3)
MANY = Tile(64, 32, 64, 4, 1)
PROGRAMS = 528  # of a GPU with 132 multiprocessors, that the pixels of a kernels' gradient are shared among
ENABLED = True
SHARED = True


@cache
def available() -> bool:
    """Whether Triton is there; it comes with torch for CUDA on Linux."""
    return find_spec("triton") is not None


@cache
def kernels() -> Any:
    """Return the module of the kernels, which imports Triton."""
    from metalab.models.kernels import conv

    return conv


def takes(of: Tensor, weight: Any, stride: Pair, groups: int) -> bool:
    """Whether these kernels take a convolution with kernels [O,C/groups,kh,kw] of this shape.

    of: one of its maps, for its device and type.
    """
    return takes_maps(of) and groups > 1 and stride[0] == stride[1] and max(weight[1], weight[0] // groups) <= MOST


def takes_maps(x: Tensor) -> bool:
    """Whether maps are of a device and type that these kernels take."""
    return ENABLED and x.is_cuda and x.dtype == torch.float32 and available()


def tf32() -> bool:
    """Whether matrix products may use TF32, as engines/precision.py sets it."""
    if torch.__version__ >= "2.9":
        return torch.backends.cuda.matmul.fp32_precision == "tf32"  # type: ignore[attr-defined]
    return bool(torch.backends.cuda.matmul.allow_tf32)


def power(size: int, least: int = 16) -> int:
    """Return the next power of two, at least so large."""
    return max(least, 1 << (size - 1).bit_length())


def block(channels: int, taps: int, most: int) -> int:
    """Return how many of the taps' channels are taken at once: those of one tap, or of all taps where there are few."""
    whole = next((size for size in (64, 32, 16) if size <= most and channels % size == 0), None)
    return whole or min(power(channels * taps), 2 * most)


def ceil(a: int, b: int) -> int:
    return -(-a // b)


def output(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """Return the convolution [N,O,h',w'] of x [N,C,h,w] with weight [O,C/groups,kh,kw], plus bias [O]."""
    h, w = ((x.shape[2 + i] + 2 * padding[i] - weight.shape[2 + i]) // stride[i] + 1 for i in range(2))
    return maps(x, weight, bias, (x.shape[0], weight.shape[0], h, w), stride, padding, groups, False)


def input_gradient(g: Tensor, weight: Tensor, shape: torch.Size, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """Return the gradient of the images, of this shape [N,C,h,w], from that of the output, g [N,O,h',w']."""
    return maps(g, weight, None, tuple(shape), stride, padding, groups, True)


def maps(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Any, stride: Pair, padding: Pair, groups: int,
         transposed: bool) -> Tensor:  # fmt: skip
    """Return maps of this shape from x; transposed: from the gradient of the output that of the images."""
    x, own = x.contiguous(memory_format=LAST), weight.unflatten(0, (groups, -1))
    filters = (own.permute(0, 2, 3, 4, 1) if transposed else own.permute(0, 1, 3, 4, 2)).contiguous()
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=LAST)
    c, o, taps = x.shape[1] // groups, shape[1] // groups, weight.shape[2] * weight.shape[3]
    pixels, block_o = shape[0] * shape[2] * shape[3], min(power(o), MAPS.filters)
    kernels().maps[(ceil(pixels, MAPS.pixels), groups * ceil(o, block_o))](
        x, filters, bias, y, pixels, groups, x.shape[2], x.shape[3], shape[2], shape[3], c, o,
        weight.shape[2], weight.shape[3], stride[0], *padding, transposed, bias is not None, MAPS.pixels,
        block(c, taps, MAPS.channels), block_o, precision(), MAPS.stages, num_warps=MAPS.warps,
    )  # fmt: skip
    return y


def weight_gradient(g: Tensor, x: Tensor, shape: Any, bias: bool, stride: Pair, padding: Pair, groups: int) -> Any:
    """Return the gradients of the kernels, of this shape [O,C/groups,kh,kw], and of the bias from g [N,O,h',w']."""
    g, x = g.contiguous(memory_format=LAST), x.contiguous(memory_format=LAST)
    c, o, taps = shape[1], shape[0] // groups, shape[2] * shape[3]
    tile = MANY if min(c, o) > 32 else FEW if tf32() else FEW_EXACT
    pixels = g.shape[0] * g.shape[2] * g.shape[3]
    block_o, block_k = min(power(o), tile.filters), block(c, taps, tile.channels)
    row = shape[3] == 3 and c % block_k == 0
    others = groups * ceil(o, block_o) * ceil(c * taps // (3 if row else 1), block_k)
    shares = max(1, min(ceil(PROGRAMS, others), ceil(pixels, 2 * tile.pixels)))
    each = ceil(ceil(pixels, shares), tile.pixels) * tile.pixels
    shares = ceil(pixels, each)
    parts = torch.empty((shares, *shape), dtype=x.dtype, device=x.device)
    bias_parts = torch.empty((shares, shape[0] if bias else 0), dtype=x.dtype, device=x.device)
    kernels().kernel_gradient[(shares, others)](
        g, x, parts, bias_parts, pixels, groups, x.shape[2], x.shape[3], g.shape[2], g.shape[3], c, o,
        shape[2], shape[3], stride[0], *padding, bias, each, row, tile.pixels, block_k, block_o, precision(),
        tile.stages, num_warps=tile.warps,
    )  # fmt: skip
    return (parts[0], bias_parts[0]) if shares == 1 else (parts.sum(0), bias_parts.sum(0))


def precision() -> str:
    """Return how a product is taken: TF32 where it is allowed, else three of them, which is float32 to rounding."""
    return "tf32" if tf32() else "tf32x3"
