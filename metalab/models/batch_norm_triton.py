"""Batch norm on a GPU by kernels of our own (kernels/batch_norm.py), with max-pooling and ReLU behind it or alone.

What a meta-step does of it in dozens of operations is three kernels a derivative here: sums over shares of the pixels,
the sums of those, and one pass over the map. Maps are channels-last, so that the tasks' channels lie side by side.
"""

from functools import cache
from math import ceil
from typing import Any

import torch
from torch import Tensor

from metalab.models.conv_triton import LAST, power, takes_maps

PIXELS, CHANNELS, WARPS = 64, 32, 4  # that a program takes at once, and of how many warps it is
PROGRAMS = 1056  # that the pixels are shared among where they are summed: eight for each multiprocessor of an H200


@cache
def kernels() -> Any:
    """Return the module of the kernels, which imports Triton."""
    from metalab.models.kernels import batch_norm

    return batch_norm


def takes(x: Tensor) -> bool:
    """Whether these kernels take a map: float32 [N,D,h,w] on a GPU, channels-last, of more than a row or a column."""
    return takes_maps(x) and x.dim() == 4 and x.is_contiguous(memory_format=LAST) and min(x.shape[2:]) > 1


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the ReLU of the normalized map's 2x2 maxima, mean, 1 / deviation, and where the maxima were.

    x [N,D,h,w]; weight, bias, mean and 1 / deviation [D]. Where: uint8 [N,D,h//2,w//2], the number of the pixel in its
    window, row by row, or 4 where the ReLU left nothing.
    """
    mean, inverse = statistics(x, eps)
    n, d, height, width = x.shape
    shape = (n, d, height // 2, width // 2)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=LAST)
    at = torch.empty(shape, dtype=torch.uint8, device=x.device, memory_format=LAST)
    windows = y.numel() // d
    with torch.cuda.device_of(x):  # Triton launches on the current device
        kernels().normalize_and_pool[grid(windows, d)](
            *(x, weight.contiguous(), bias.contiguous(), mean, inverse, y, at),
            *(windows, height, width, d, PIXELS, channels(d)),
            num_warps=WARPS,
        )
    return y, mean, inverse, at


def statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / deviation [D] of a map [N,D,h,w]; not on a GPU only under Triton's interpreter."""
    if x.is_cuda:
        return torch.batch_norm_stats(x, eps)  # type: ignore[attr-defined]
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return mean, torch.rsqrt(var + eps)


def backward(g: Tensor, x: Tensor, at: Tensor | None, weight: Tensor, mean: Tensor, inverse: Tensor) -> Any:
    """Return the gradients of the map x, the weight and the bias; at: of the maxima, None where nothing was pooled."""
    g, x, mean, inverse = *laid_out(g, x), mean.contiguous(), inverse.contiguous()
    d, pooled, (marks,) = x.shape[1], at is not None, laid_out(x if at is None else at)
    rows, pixels = g.numel() // d, x.numel() // d
    shares, each = split(rows, d)
    parts, gx = torch.empty((shares, 2, d), dtype=x.dtype, device=x.device), torch.empty_like(x)
    sizes = (*x.shape[2:], d, pooled, PIXELS, channels(d))
    with torch.cuda.device_of(x):
        kernels().backward_sums[(shares, ceil(d / channels(d)))](
            *(g, x, marks, mean, inverse, parts, rows, each, *sizes), num_warps=WARPS
        )
        sums = parts[0] if shares == 1 else parts.sum(0)
        kernels().backward[grid(pixels, d)](
            *(g, x, marks, weight.contiguous(), mean, inverse, sums, gx, pixels, *sizes), num_warps=WARPS
        )
    return gx, sums[0], sums[1]


def double_backward(
    a: Tensor,
    to_weight: Tensor,
    to_bias: Tensor,
    g: Tensor,
    x: Tensor,
    at: Tensor | None,
    weight: Tensor,
    mean: Tensor,
    inverse: Tensor,
    gw: Tensor,
    gb: Tensor,
) -> Any:
    """Return the gradients of g, x and weight from those of backward's outputs, two of which are gw and gb."""
    a, g, x, mean, inverse = *laid_out(a, g, x), mean.contiguous(), inverse.contiguous()
    d, pixels, pooled, (marks,) = x.shape[1], x.numel() // x.shape[1], at is not None, laid_out(x if at is None else at)
    shares, each = split(pixels, d)
    parts = torch.empty((shares, 3, d), dtype=x.dtype, device=x.device)
    at_g, at_x, at_weight = torch.empty_like(g), torch.empty_like(x), torch.empty_like(mean)
    sizes = (*x.shape[2:], d, pooled, PIXELS, channels(d))
    with torch.cuda.device_of(x):
        kernels().double_backward_sums[(shares, ceil(d / channels(d)))](
            *(a, g, x, marks, mean, inverse, parts, pixels, each, *sizes), num_warps=WARPS
        )
        second = parts[0] if shares == 1 else parts.sum(0)
        vectors = (weight.contiguous(), mean, inverse, torch.stack([gw, gb]), second)
        kernels().double_backward[grid(pixels, d)](
            *(a, to_weight.contiguous(), to_bias.contiguous(), g, x, marks, *vectors, at_g, at_x, at_weight, pixels),
            *sizes,
            num_warps=WARPS,
        )
    return at_g, at_x, at_weight


def laid_out(*maps: Tensor) -> list[Tensor]:
    """Return maps channels-last; those that are not were copied under vmap."""
    return [x.contiguous(memory_format=LAST) for x in maps]


def positions(at: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return where the maxima are as torch says it, [N,D,h,w] of the pixel's number in the map, and which live."""
    h, w = at.shape[2:]
    place = (at % 4).long()
    row = 2 * torch.arange(h, device=at.device)[:, None] + place // 2
    return row * width + 2 * torch.arange(w, device=at.device) + place % 2, at < 4


def grid(rows: int, d: int) -> tuple[int, int]:
    """Return how many programs a pass over rows and channels is of."""
    return ceil(rows / PIXELS), ceil(d / channels(d))


def channels(d: int) -> int:
    """Return how many channels a program takes."""
    return min(power(d), CHANNELS)


def split(rows: int, d: int) -> tuple[int, int]:
    """Return among how many programs rows are shared where they are summed, and how many each has."""
    shares = max(1, min(PROGRAMS // ceil(d / channels(d)), ceil(rows / (2 * PIXELS))))
    each = ceil(rows / shares / PIXELS) * PIXELS
    return ceil(rows / each), each
