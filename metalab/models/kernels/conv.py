"""The Triton kernels of a convolution in groups over channels-last maps; conv_triton.py calls them."""

import triton
import triton.language as tl


@triton.jit
def source(
    p,
    tap_row,
    tap_column,
    HEIGHT,
    WIDTH,
    OUT_HEIGHT,
    OUT_WIDTH,
    STRIDE: tl.constexpr,
    UP: tl.constexpr,
    LEFT: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """Return the pixel of the input that a tap of the kernel sees from pixel p of the output, and whether it is one."""
    n = p // (OUT_HEIGHT * OUT_WIDTH)
    at = p % (OUT_HEIGHT * OUT_WIDTH)
    row = at // OUT_WIDTH
    column = at % OUT_WIDTH
    if TRANSPOSED:  # the output is the gradient of the images, the input that of the maps
        row = row + UP - tap_row
        column = column + LEFT - tap_column
        inside = (row >= 0) & (column >= 0)
        if STRIDE > 1:
            inside = inside & (row % STRIDE == 0) & (column % STRIDE == 0)
            row = row // STRIDE
            column = column // STRIDE
    else:
        row = row * STRIDE + tap_row - UP
        column = column * STRIDE + tap_column - LEFT
        inside = (row >= 0) & (column >= 0)
    inside = inside & (row < HEIGHT) & (column < WIDTH)
    return (n * HEIGHT + row) * WIDTH + column, inside


@triton.jit
def maps(x, weight, bias, y, PIXELS, GROUPS, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH,
         C: tl.constexpr, F: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, STRIDE: tl.constexpr,
         UP: tl.constexpr, LEFT: tl.constexpr, TRANSPOSED: tl.constexpr, BIAS: tl.constexpr,
         BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_F: tl.constexpr, PRECISION: tl.constexpr,
         STAGES: tl.constexpr):  # fmt: skip
    """y [N,h',w',G,F] of x [N,h,w,G,C] and kernels [G,F,taps,C]."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    tiles: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    group = tl.program_id(1) // tiles
    f = tl.program_id(1) % tiles * BLOCK_F + tl.arange(0, BLOCK_F)
    exists = p < PIXELS
    k = tl.arange(0, BLOCK_K)
    first = weight + group.to(tl.int64) * (C * F * KH * KW)
    total = tl.zeros((BLOCK_P, BLOCK_F), tl.float32)
    if C % BLOCK_K == 0:  # one tap at a time
        for step in tl.range(0, KH * KW * (C // BLOCK_K), num_stages=STAGES):
            tap = step // (C // BLOCK_K)
            c = step % (C // BLOCK_K) * BLOCK_K + k
            at, inside = source(p, tap // KW, tap % KW, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, STRIDE, UP, LEFT,
                                TRANSPOSED)  # fmt: skip
            pixels = tl.load(x + (at * (GROUPS * C) + group * C)[:, None] + c[None, :],
                             mask=(inside & exists)[:, None], other=0.0)  # fmt: skip
            kernel = tl.load(first + (step * BLOCK_K + k)[:, None] + (f * (KH * KW * C))[None, :],
                             mask=(f < F)[None, :], other=0.0)  # fmt: skip
            total = tl.dot(pixels, kernel, total, input_precision=PRECISION)
    else:  # few channels: taps and channels are one dimension
        for start in tl.range(0, KH * KW * C, BLOCK_K, num_stages=STAGES):
            tap = (start + k) // C
            c = (start + k) % C
            at, inside = source(p[:, None], (tap // KW)[None, :], (tap % KW)[None, :], HEIGHT, WIDTH, OUT_HEIGHT,
                                OUT_WIDTH, STRIDE, UP, LEFT, TRANSPOSED)  # fmt: skip
            known = (start + k) < KH * KW * C
            pixels = tl.load(x + at * (GROUPS * C) + group * C + c[None, :],
                             mask=inside & exists[:, None] & known[None, :], other=0.0)  # fmt: skip
            kernel = tl.load(first + (start + k)[:, None] + (f * (KH * KW * C))[None, :],
                             mask=known[:, None] & (f < F)[None, :], other=0.0)  # fmt: skip
            total = tl.dot(pixels, kernel, total, input_precision=PRECISION)
    if BIAS:
        total += tl.load(bias + group * F + f, mask=f < F, other=0.0)[None, :]
    tl.store(y + (p * (GROUPS * F) + group * F)[:, None] + f[None, :], total, mask=exists[:, None] & (f < F)[None, :])


@triton.jit
def kernel_gradient(g, x, parts, bias_parts, PIXELS, GROUPS, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH,
                    C: tl.constexpr, F: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, STRIDE: tl.constexpr,
                    UP: tl.constexpr, LEFT: tl.constexpr, BIAS: tl.constexpr, EACH, ROW: tl.constexpr,
                    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_F: tl.constexpr, PRECISION: tl.constexpr,
                    STAGES: tl.constexpr):  # fmt: skip
    """parts [S,G,F,C,taps], of pixels S*EACH to (S+1)*EACH, of g [N,h',w',G,F] and x [N,h,w,G,C]; bias_parts [S,G,F].

    ROW: a program takes the three taps of a row of the kernel, so that g is read once for them.
    """
    F_TILES: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    TAPS: tl.constexpr = 3 if ROW else 1
    K_TILES: tl.constexpr = (C * KH * KW // TAPS + BLOCK_K - 1) // BLOCK_K
    share = tl.program_id(0)
    group = tl.program_id(1) // (F_TILES * K_TILES)
    tile = tl.program_id(1) % (F_TILES * K_TILES)
    f = tile // K_TILES * BLOCK_F + tl.arange(0, BLOCK_F)
    index = tile % K_TILES
    k = index * BLOCK_K + tl.arange(0, BLOCK_K)  # of all taps' channels, with ROW of all rows'
    known = k < C * KH * KW
    total = tl.zeros((BLOCK_F, BLOCK_K), tl.float32)
    second = tl.zeros((BLOCK_F, BLOCK_K), tl.float32)
    third = tl.zeros((BLOCK_F, BLOCK_K), tl.float32)
    of_bias = tl.zeros((BLOCK_F,), tl.float32)
    end = tl.minimum((share + 1) * EACH, PIXELS)
    for start in tl.range(share * EACH, end, BLOCK_P, num_stages=STAGES):
        p = start + tl.arange(0, BLOCK_P)
        exists = p < end
        of_maps = tl.load(g + (p * (GROUPS * F) + group * F)[:, None] + f[None, :],
                          mask=exists[:, None] & (f < F)[None, :], other=0.0)  # fmt: skip
        if BIAS:
            of_bias += tl.sum(of_maps, 0)
        if C % BLOCK_K == 0:
            tap = index // (C // BLOCK_K) * TAPS
            c = index % (C // BLOCK_K) * BLOCK_K + tl.arange(0, BLOCK_K)
            at, inside = source(p, tap // KW, tap % KW, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, STRIDE, UP, LEFT, False)
            pixels = tl.load(x + (at * (GROUPS * C) + group * C)[:, None] + c[None, :],
                             mask=(inside & exists)[:, None], other=0.0)  # fmt: skip
            total = tl.dot(tl.trans(of_maps), pixels, total, input_precision=PRECISION)
            if ROW:
                at, inside = source(p, tap // KW, 1, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, STRIDE, UP, LEFT, False)
                pixels = tl.load(x + (at * (GROUPS * C) + group * C)[:, None] + c[None, :],
                                 mask=(inside & exists)[:, None], other=0.0)  # fmt: skip
                second = tl.dot(tl.trans(of_maps), pixels, second, input_precision=PRECISION)
                at, inside = source(p, tap // KW, 2, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH, STRIDE, UP, LEFT, False)
                pixels = tl.load(x + (at * (GROUPS * C) + group * C)[:, None] + c[None, :],
                                 mask=(inside & exists)[:, None], other=0.0)  # fmt: skip
                third = tl.dot(tl.trans(of_maps), pixels, third, input_precision=PRECISION)
        else:
            tap = k // C
            at, inside = source(p[:, None], (tap // KW)[None, :], (tap % KW)[None, :], HEIGHT, WIDTH, OUT_HEIGHT,
                                OUT_WIDTH, STRIDE, UP, LEFT, False)  # fmt: skip
            pixels = tl.load(x + at * (GROUPS * C) + group * C + (k % C)[None, :],
                             mask=inside & exists[:, None] & known[None, :], other=0.0)  # fmt: skip
            total = tl.dot(tl.trans(of_maps), pixels, total, input_precision=PRECISION)
    row = (share * GROUPS + group) * F + f
    where = parts + (row * (C * KH * KW))[:, None] + (k % C * (KH * KW) + k // C * TAPS)[None, :]
    tl.store(where, total, mask=(f < F)[:, None] & known[None, :])
    if ROW:
        tl.store(where + 1, second, mask=(f < F)[:, None])
        tl.store(where + 2, third, mask=(f < F)[:, None])
    if BIAS:  # noqa: SIM102 - known when this is compiled
        if tile % K_TILES == 0:
            tl.store(bias_parts + row, of_bias, mask=f < F)
