"""Convolutions in groups on a GPU by kernels of our own (kernels/conv.py), over maps that are channels-last.

Where each task has kernels of its own, a convolution of T tasks in T groups is what is left of a meta-step. cuDNN takes
many small kernels and reorderings for one; here it is one implicit matrix product: a tile of pixels by the filters of
one group, over the kernel's taps and the group's channels. The kernels' gradient is a product over the pixels, shared
among programs whose parts are summed afterwards, in the same order every time (docs/performance.md, On a GPU).
"""

import logging
from functools import cache
from importlib.util import find_spec
from math import ceil, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalab.models.conv_im2col import output_size, tf32

logger = logging.getLogger("metalab")
Pair = tuple[int, int]
LAST = torch.channels_last
LEAST, MOST = 16, 64  # channels or filters of a group, the larger, where these kernels were measured to be faster
PROGRAMS = 528  # that the pixels of a kernels' gradient are shared among: four for each multiprocessor of an H200


class Tile(NamedTuple):
    """How many pixels, channels and filters a program takes at once, by how many warps, reading so many tiles ahead."""

    pixels: int
    channels: int
    filters: int
    warps: int
    stages: int


MAPS = Tile(64, 32, 64, 4, 3)
FEW, FEW_EXACT = Tile(64, 32, 64, 4, 3), Tile(32, 32, 64, 4, 3)  # the kernels' gradient, up to 32 channels or filters
MANY = Tile(64, 32, 64, 4, 1)  # what is read ahead would go to shared memory four bytes at a time


@cache
def available(device: torch.device) -> bool:
    """Whether Triton runs on a device: an NVIDIA GPU with TF32, of 2020 or later; Triton comes with torch on Linux.

    It builds its launchers with the system's C compiler; where there is none, cuDNN's kernels are taken.
    """
    if device.type != "cuda" or torch.version.cuda is None or find_spec("triton") is None:
        return False
    import triton
    from triton.runtime import driver

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if torch.cuda.get_device_capability(device) < (8, 0) or version < (3, 3):  # 3.2 aborts on maps of one pixel
        return False

    try:
        driver.active.get_current_target()
    except Exception as error:  # of many kinds, by what is missing
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.info(f"Triton does not run here ({reason}): convolutions and batch norms are torch's, and slower")
        return False
    return True


@cache
def kernels() -> Any:
    """Return the module of the kernels, which imports Triton."""
    from metalab.models.kernels import conv

    return conv


def takes_maps(x: Tensor) -> bool:
    """Whether maps are of a device, type and size that these kernels take; their offsets are of 32 bits."""
    return x.is_cuda and x.dtype == torch.float32 and 0 < x.numel() < 2**31 and available(x.device)


def suits(of: Tensor, weight: Any, stride: Pair, groups: int) -> bool:
    """Whether a convolution with kernels [O,C/groups,kh,kw] of this shape is one of those that these kernels are for.

    of: one of its maps, for its device and type.
    """
    larger = max(weight[1], weight[0] // groups)
    tiles = groups * prod(weight[1:]) / 16  # at most, of which a GPU takes 65,535
    return takes_maps(of) and groups > 1 and stride[0] == stride[1] and LEAST <= larger <= MOST and tiles < 2**16


def takes(of: Tensor, images: Any, weight: Any, stride: Pair, padding: Pair, groups: int) -> bool:
    """Whether these kernels take a convolution of images [N,C,h,w] with kernels [O,C/groups,kh,kw] of these shapes."""
    outputs = images[0] * weight[0] * prod(output_size(images, (weight[2], weight[3]), stride, padding))
    return suits(of, weight, stride, groups) and max(prod(images), outputs) < 2**31


def power(size: int) -> int:
    """Return the next power of two, at least the 16 that a matrix product takes."""
    return max(16, 1 << (size - 1).bit_length())


def block(channels: int, taps: int, most: int) -> int:
    """Return how many of the taps' channels are taken at once: those of one tap, or of all taps where there are few."""
    whole = next((size for size in (64, 32, 16) if size <= most and channels % size == 0), None)
    return whole or min(power(channels * taps), 2 * most)


def precision() -> str:
    """Return how a product is taken: in TF32 where that is allowed, else as three of them, float32 to rounding."""
    return "tf32" if tf32() else "tf32x3"


def output(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """Return the convolution [N,O,h',w'] of x [N,C,h,w] with weight [O,C/groups,kh,kw], plus bias [O]."""
    size = output_size(x.shape, (weight.shape[2], weight.shape[3]), stride, padding)
    return maps(x, weight, bias, (x.shape[0], weight.shape[0], *size), stride, padding, groups, False)


def input_gradient(g: Tensor, weight: Tensor, shape: Any, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """Return the gradient of the images, of this shape [N,C,h,w], from that of the output, g [N,O,h',w']."""
    return maps(g, weight, None, tuple(shape), stride, padding, groups, True)


def maps(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    shape: tuple[int, ...],
    stride: Pair,
    padding: Pair,
    groups: int,
    transposed: bool,
) -> Tensor:
    """Return maps of this shape from x; transposed: from the gradient of the output that of the images."""
    x, own = x.contiguous(memory_format=LAST), weight.unflatten(0, (groups, -1))
    bias = None if bias is None else bias.contiguous()
    filters = (own.permute(0, 2, 3, 4, 1) if transposed else own.permute(0, 1, 3, 4, 2)).contiguous()
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=LAST)
    c, o, taps = x.shape[1] // groups, shape[1] // groups, weight.shape[2] * weight.shape[3]
    pixels, block_o = shape[0] * shape[2] * shape[3], min(power(o), MAPS.filters)
    sizes = (pixels, groups, *x.shape[2:], *shape[2:], c, o, *weight.shape[2:], stride[0], *padding)
    blocks = (MAPS.pixels, block(c, taps, MAPS.channels), block_o)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        kernels().maps[(ceil(pixels / MAPS.pixels), groups * ceil(o / block_o))](
            *(x, filters, bias, y, *sizes, transposed, bias is not None, *blocks, precision(), MAPS.stages),
            num_warps=MAPS.warps,
        )
    return y


def weight_gradient(g: Tensor, x: Tensor, shape: Any, bias: bool, stride: Pair, padding: Pair, groups: int) -> Any:
    """Return the gradients of the kernels, of this shape [O,C/groups,kh,kw], and of the bias from g [N,O,h',w'].

    Without a bias the second is empty.
    """
    g, x = g.contiguous(memory_format=LAST), x.contiguous(memory_format=LAST)
    c, o, taps, pixels = shape[1], shape[0] // groups, shape[2] * shape[3], g.numel() // g.shape[1]
    tile = MANY if min(c, o) > 32 else FEW if tf32() else FEW_EXACT
    block_o, block_k = min(power(o), tile.filters), block(c, taps, tile.channels)
    row = shape[3] == 3 and c % block_k == 0  # a program takes the three taps of a row
    others = groups * ceil(o / block_o) * ceil(c * taps / (3 if row else 1) / block_k)
    shares = max(1, min(ceil(PROGRAMS / others), ceil(pixels / (2 * tile.pixels))))
    each = ceil(pixels / shares / tile.pixels) * tile.pixels
    shares = ceil(pixels / each)
    parts = torch.empty((shares, *shape), dtype=x.dtype, device=x.device)
    bias_parts = torch.empty((shares, shape[0] if bias else 0), dtype=x.dtype, device=x.device)
    sizes = (pixels, groups, *x.shape[2:], *g.shape[2:], c, o, *shape[2:], stride[0], *padding)
    blocks = (tile.pixels, block_k, block_o)
    with torch.cuda.device_of(x):
        kernels().kernel_gradient[(shares, others)](
            *(g, x, parts, bias_parts, *sizes, bias, each, row, *blocks, precision(), tile.stages),
            num_warps=tile.warps,
        )
    return (parts[0], bias_parts[0]) if shares == 1 else (parts.sum(0), bias_parts.sum(0))
