"""The Triton kernels of batch norm over channels-last maps, with 2x2 max-pooling and ReLU behind it or alone.

Rows are pixels, [N*h*w,D]; with POOL those of the output are windows, [N*(h//2)*(w//2),D]. `at` says which of a
window's four pixels is its maximum, row by row, and 4 where the ReLU leaves nothing of it.
"""

import triton
import triton.language as tl


@triton.jit
def tile(D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return the channels of a program and whether they exist."""
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    return d, d < D


@triton.jit
def window(p, HEIGHT, WIDTH):
    """Return a pixel's window, its place in it, and whether it is in one: an odd row or column at the end is not."""
    n = p // (HEIGHT * WIDTH)
    row = p % (HEIGHT * WIDTH) // WIDTH
    column = p % WIDTH
    h = HEIGHT // 2
    w = WIDTH // 2
    inside = (row < 2 * h) & (column < 2 * w)
    return (n * h + row // 2) * w + column // 2, row % 2 * 2 + column % 2, inside


@triton.jit
def corner(q, HEIGHT, WIDTH):
    """Return the first pixel of a window."""
    h = HEIGHT // 2
    w = WIDTH // 2
    return ((q // (h * w)) * HEIGHT + q % (h * w) // w * 2) * WIDTH + q % w * 2


@triton.jit
def output_gradient(g, at, p, d, exists, HEIGHT, WIDTH, D: tl.constexpr, POOL: tl.constexpr):
    """Return the gradient [rows,channels] of the normalized map at pixels p, from that of the output."""
    if POOL:
        of, place, inside = window(p, HEIGHT, WIDTH)
        where = (of * D)[:, None] + d[None, :]
        exists = exists & inside[:, None]
        mine = tl.load(at + where, mask=exists, other=4) == place[:, None]
        return tl.load(g + where, mask=exists & mine, other=0.0)
    else:
        return tl.load(g + (p * D)[:, None] + d[None, :], mask=exists, other=0.0)


@triton.jit
def normalize_and_pool(x, weight, bias, mean, inverse, y, at, ROWS, HEIGHT, WIDTH, D: tl.constexpr,
                       BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """y [windows,D], at [windows,D] of x [pixels,D]."""
    d, known = tile(D, BLOCK_D)
    q = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    exists = (q < ROWS)[:, None] & known[None, :]
    first = corner(q, HEIGHT, WIDTH)
    scale = tl.load(weight + d, mask=known, other=0.0) * tl.load(inverse + d, mask=known, other=0.0)
    center = tl.load(mean + d, mask=known, other=0.0)
    shift = tl.load(bias + d, mask=known, other=0.0)
    best = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    place = tl.zeros((BLOCK_P, BLOCK_D), tl.int32)
    for i in tl.static_range(4):
        p = first + i // 2 * WIDTH + i % 2
        value = tl.load(x + (p * D)[:, None] + d[None, :], mask=exists, other=0.0)
        value = (value - center[None, :]) * scale[None, :] + shift[None, :]
        if i == 0:
            best = value
        else:
            better = (value > best) | (value != value)  # of equal ones the first, and a NaN wins, as torch has it
            best = tl.where(better, value, best)
            place = tl.where(better, i, place)
    dead = best <= 0
    where = (q * D)[:, None] + d[None, :]
    tl.store(y + where, tl.where(dead, 0.0, best), mask=exists)
    tl.store(at + where, tl.where(dead, 4, place).to(tl.uint8), mask=exists)


@triton.jit
def backward_sums(g, x, at, mean, inverse, parts, ROWS, EACH, HEIGHT, WIDTH, D: tl.constexpr, POOL: tl.constexpr,
                  BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """parts [S,2,D]: the sums of the map's gradient times the normalized map, and of the gradient, over shares of rows.

    Rows are those of the output, g.
    """
    d, known = tile(D, BLOCK_D)
    center = tl.load(mean + d, mask=known, other=0.0)
    scale = tl.load(inverse + d, mask=known, other=0.0)
    of_weight = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    of_bias = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    share = tl.program_id(0)
    end = tl.minimum((share + 1) * EACH, ROWS)
    for start in range(share * EACH, end, BLOCK_P):
        q = start + tl.arange(0, BLOCK_P)
        exists = (q < end)[:, None] & known[None, :]
        where = (q * D)[:, None] + d[None, :]
        value = tl.load(g + where, mask=exists, other=0.0)
        if POOL:
            place = tl.load(at + where, mask=exists, other=4).to(tl.int32)
            exists = exists & (place < 4)
            value = tl.where(exists, value, 0.0)
            where = (corner(q, HEIGHT, WIDTH)[:, None] + place // 2 * WIDTH + place % 2) * D + d[None, :]
        seen = tl.load(x + where, mask=exists, other=0.0)
        of_bias += value
        of_weight += value * (seen - center[None, :]) * scale[None, :]
    out = parts + share * (2 * D) + d
    tl.store(out, tl.sum(of_weight, 0), mask=known)
    tl.store(out + D, tl.sum(of_bias, 0), mask=known)


@triton.jit
def backward(g, x, at, weight, mean, inverse, sums, gx, ROWS, HEIGHT, WIDTH, D: tl.constexpr, POOL: tl.constexpr,
             BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """gx [pixels,D] from g and the sums [2,D]."""
    d, known = tile(D, BLOCK_D)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    exists = (p < ROWS)[:, None] & known[None, :]
    scale = tl.load(inverse + d, mask=known, other=0.0)
    center = tl.load(mean + d, mask=known, other=0.0)
    gain = tl.load(weight + d, mask=known, other=0.0) * scale
    of_weight = tl.load(sums + d, mask=known, other=0.0) / ROWS
    of_bias = tl.load(sums + D + d, mask=known, other=0.0) / ROWS
    gy = output_gradient(g, at, p, d, exists, HEIGHT, WIDTH, D, POOL)
    where = (p * D)[:, None] + d[None, :]
    seen = (tl.load(x + where, mask=exists, other=0.0) - center[None, :]) * scale[None, :]
    tl.store(gx + where, gain[None, :] * (gy - of_bias[None, :] - seen * of_weight[None, :]), mask=exists)


@triton.jit
def double_backward_sums(a, g, x, at, mean, inverse, parts, ROWS, EACH, HEIGHT, WIDTH, D: tl.constexpr,
                         POOL: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """parts [S,3,D]: over shares of pixels, the sums of a, a times the normalized map, and a times its gradient."""
    d, known = tile(D, BLOCK_D)
    center = tl.load(mean + d, mask=known, other=0.0)
    scale = tl.load(inverse + d, mask=known, other=0.0)
    plain = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    times_map = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    times_gradient = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    share = tl.program_id(0)
    end = tl.minimum((share + 1) * EACH, ROWS)
    for start in range(share * EACH, end, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        exists = (p < end)[:, None] & known[None, :]
        where = (p * D)[:, None] + d[None, :]
        value = tl.load(a + where, mask=exists, other=0.0)
        seen = (tl.load(x + where, mask=exists, other=0.0) - center[None, :]) * scale[None, :]
        plain += value
        times_map += value * seen
        times_gradient += value * output_gradient(g, at, p, d, exists, HEIGHT, WIDTH, D, POOL)
    out = parts + share * (3 * D) + d
    tl.store(out, tl.sum(plain, 0), mask=known)
    tl.store(out + D, tl.sum(times_map, 0), mask=known)
    tl.store(out + 2 * D, tl.sum(times_gradient, 0), mask=known)


@triton.jit
def double_backward(a, to_weight, to_bias, g, x, at, weight, mean, inverse, first, second, at_g, at_x, at_weight, ROWS,
                    HEIGHT, WIDTH, D: tl.constexpr, POOL: tl.constexpr, BLOCK_P: tl.constexpr,
                    BLOCK_D: tl.constexpr):  # fmt: skip
    """at_g as g, at_x [pixels,D] and at_weight [D]; first [2,D] and second [3,D]: the sums of both backwards.

    The formulas are those of BatchNormDoubleBackward in batch_norm_autograd.py.
    """
    d, known = tile(D, BLOCK_D)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    exists = (p < ROWS)[:, None] & known[None, :]
    scale = tl.load(inverse + d, mask=known, other=0.0)
    center = tl.load(mean + d, mask=known, other=0.0)
    gain = tl.load(weight + d, mask=known, other=0.0)
    slope = tl.load(to_weight + d, mask=known, other=0.0)
    shift = tl.load(to_bias + d, mask=known, other=0.0)
    gw = tl.load(first + d, mask=known, other=0.0)
    gb = tl.load(first + D + d, mask=known, other=0.0)
    a_sum = tl.load(second + d, mask=known, other=0.0)
    ah = tl.load(second + D + d, mask=known, other=0.0)
    k = tl.load(second + 2 * D + d, mask=known, other=0.0) - a_sum * gb / ROWS - ah * gw / ROWS
    curve = gain * scale * scale / ROWS
    of_a = -curve * gw
    of_gy = slope * scale - curve * ah
    of_h = (2 * curve * ah - slope * scale) * gw / ROWS - curve * k
    constant = -(of_a * a_sum + of_gy * gb) / ROWS
    where = (p * D)[:, None] + d[None, :]
    given = tl.load(a + where, mask=exists, other=0.0)
    seen = (tl.load(x + where, mask=exists, other=0.0) - center[None, :]) * scale[None, :]
    gy = output_gradient(g, at, p, d, exists, HEIGHT, WIDTH, D, POOL)
    of_x = constant[None, :] + given * of_a[None, :] + gy * of_gy[None, :] + seen * of_h[None, :]
    tl.store(at_x + where, of_x, mask=exists)
    of_g = (gain * scale)[None, :] * (given - (a_sum / ROWS)[None, :] - seen * (ah / ROWS)[None, :])
    of_g += seen * slope[None, :] + shift[None, :]
    if POOL:
        of, place, inside = window(p, HEIGHT, WIDTH)
        where = (of * D)[:, None] + d[None, :]
        exists = exists & inside[:, None]
        best = tl.load(at + where, mask=exists, other=4).to(tl.int32)
        mine = best == place[:, None]
        nobodys = (best == 4) & (place == 0)[:, None]
        tl.store(at_g + where, tl.where(mine, of_g, 0.0), mask=exists & (mine | nobodys))
    else:
        tl.store(at_g + where, of_g, mask=exists)
    if tl.program_id(0) == 0:
        tl.store(at_weight + d, scale * k, mask=known)
