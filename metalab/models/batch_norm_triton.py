"""Batch norm on a GPU by kernels of our own (kernels/batch_norm.py), with max-pooling and ReLU behind it or alone.

What a meta-step does of it in dozens of operations is three kernels a derivative here: sums over shares of the pixels,
the sums of those, and one pass over the map. Maps are channels-last, so that the tasks' channels lie side by side.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from metalab.models.conv_triton import available, ceil, power

LAST = torch.channels_last
PIXELS, CHANNELS, WARPS = 64, 32, 4  # that a program takes at once
PROGRAMS = 1056  # that the pixels are shared among where they are summed
ENABLED = True


@cache
def kernels() -> Any:
    """Return the module of the kernels, which imports Triton."""
    from metalab.models.kernels import batch_norm

    return batch_norm


def takes(x: Tensor, pool: bool = False) -> bool:
    """Whether these kernels take a map: float32 [N,D,h,w] on a GPU, channels-last."""
    return (
        ENABLED
        and x.is_cuda
        and x.dtype == torch.float32
        and x.dim() == 4
        and x.is_contiguous(memory_format=LAST)
        and available()
        and min(x.shape[2:]) > 1
    )


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the ReLU of the normalized map's 2x2 maxima, mean, 1 / deviation, and where the maxima were."""
    mean, inverse = statistics(x, eps)
    n, d, height, width = x.shape
    shape = (n, d, height // 2, width // 2)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=LAST)
    at = torch.empty(shape, dtype=torch.uint8, device=x.device, memory_format=LAST)
    rows = n * shape[2] * shape[3]
    kernels().normalize_and_pool[grid(rows, d)](
        x, weight.contiguous(), bias.contiguous(), mean, inverse, y, at, rows, height, width, d, PIXELS, channels(d),
        num_warps=WARPS,
    )  # fmt: skip
    return y, mean, inverse, at


def statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / deviation [D] of a map [N,D,h,w]."""
    if x.is_cuda:
        return torch.batch_norm_stats(x, eps)  # type: ignore[attr-defined]
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return mean, torch.rsqrt(var + eps)


def backward(g: Tensor, x: Tensor, at: Tensor | None, weight: Tensor, mean: Tensor, inverse: Tensor) -> Any:
    """Return the gradients of the map x, the weight and the bias; at: of the maxima, None where nothing was pooled."""
    (n, d, height, width), g = x.shape, g.contiguous(memory_format=LAST)
    rows, pool, marks = n * g.shape[2] * g.shape[3], at is not None, x if at is None else at
    shares, each = split(rows, d)
    parts = torch.empty((shares, 2, d), dtype=x.dtype, device=x.device)
    kernels().backward_sums[(shares, ceil(d, channels(d)))](
        g, x, marks, mean, inverse, parts, rows, each, height, width, d, pool, PIXELS, channels(d), num_warps=WARPS
    )
    sums = parts[0] if shares == 1 else parts.sum(0)
    gx, pixels = torch.empty_like(x), n * height * width
    kernels().backward[grid(pixels, d)](
        g, x, marks, weight.contiguous(), mean, inverse, sums, gx, pixels, height, width, d, pool, PIXELS, channels(d),
        num_warps=WARPS,
    )  # fmt: skip
    return gx, sums[0], sums[1]


def double_backward(a: Tensor, to_weight: Tensor, to_bias: Tensor, g: Tensor, x: Tensor, at: Tensor | None,
                    weight: Tensor, mean: Tensor, inverse: Tensor, gw: Tensor, gb: Tensor) -> Any:  # fmt: skip
    """Return the gradients of g, x and weight from those of backward's outputs, two of which are gw and gb."""
    (n, d, height, width), pool, marks = x.shape, at is not None, x if at is None else at
    a, g = a.contiguous(memory_format=LAST), g.contiguous(memory_format=LAST)
    pixels = n * height * width
    shares, each = split(pixels, d)
    parts = torch.empty((shares, 3, d), dtype=x.dtype, device=x.device)
    kernels().double_backward_sums[(shares, ceil(d, channels(d)))](
        a, g, x, marks, mean, inverse, parts, pixels, each, height, width, d, pool, PIXELS, channels(d),
        num_warps=WARPS,
    )  # fmt: skip
    second = parts[0] if shares == 1 else parts.sum(0)
    sums = torch.stack([gw, gb])
    at_g, at_x, at_weight = torch.empty_like(g), torch.empty_like(x), torch.empty_like(mean)
    kernels().double_backward[grid(pixels, d)](
        a, to_weight.contiguous(), to_bias.contiguous(), g, x, marks, weight.contiguous(), mean, inverse,
        sums, second, at_g, at_x, at_weight, pixels, height, width, d, pool, PIXELS,
        channels(d), num_warps=WARPS,
    )  # fmt: skip
    return at_g, at_x, at_weight


def positions(at: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return where the maxima are as torch says it, [N,D,h,w] of the pixel's number in the map, and which live."""
    h, w = at.shape[2:]
    place = (at % 4).long()
    row = 2 * torch.arange(h, device=at.device)[:, None] + place // 2
    return row * width + 2 * torch.arange(w, device=at.device) + place % 2, at < 4


def grid(rows: int, d: int) -> tuple[int, int]:
    return ceil(rows, PIXELS), ceil(d, channels(d))


def channels(d: int) -> int:
    return min(power(d), CHANNELS)


def split(rows: int, d: int) -> tuple[int, int]:
    """Return among how many programs rows are shared where they are summed, and how many each has."""
    shares = max(1, min(PROGRAMS // ceil(d, channels(d)), ceil(rows, 2 * PIXELS)))
    each = ceil(ceil(rows, shares), PIXELS) * PIXELS
    return ceil(rows, each), each
