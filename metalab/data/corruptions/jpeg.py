"""What baseline JPEG (ITU-T T.81) leaves of an image, as libjpeg writes and reads it; nothing is coded."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8  # pixels a side of what is transformed
# fmt: off
LUMINANCE = (  # T.81, table K.1
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)
CHROMINANCE = (  # T.81, table K.2
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
)
# fmt: on
TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))  # JFIF 1.02
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Return images [...,C,H,W] in [0,1] after JPEG, in 255ths: of 3 channels with chroma 4:2:0, of 1 as grey.

    quality: 1 to 100, from which libjpeg makes its tables.
    """
    channels, height, width = x.shape[-3:]
    pixels = (255 * x.reshape(-1, channels, height, width)).round()
    if channels == 1:
        return (_coded(pixels, table(LUMINANCE, quality)) / 255).reshape(x.shape)
    ycc = torch.einsum("ij,bjhw->bihw", pixels.new_tensor(TO_YCC), pixels)
    ycc = (ycc + pixels.new_tensor([0, 128, 128])[:, None, None]).round()
    luma = _coded(ycc[:, :1], table(LUMINANCE, quality))
    small = F.avg_pool2d(_padded(ycc[:, 1:], 2), 2)
    small = (small + _by_column(small, 1 / 4, 2 / 4)).floor()
    chroma = _coded(small, table(CHROMINANCE, quality))
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
    chroma = (chroma + _by_column(chroma, 8 / 16, 7 / 16)).floor()[..., :height, :width]
    read = torch.cat([luma, chroma - 128], 1)
    rgb = torch.einsum("ij,bjhw->bihw", read.new_tensor(TO_RGB), read).round().clamp(0, 255)
    return (rgb / 255).reshape(x.shape)


def table(base: tuple[int, ...], quality: int) -> Tensor:
    """Return the quantization table [8,8] that libjpeg makes of a base table at a quality (jpeg_quality_scaling)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    made = [min(max((value * scale + 50) // 100, 1), 255) for value in base]
    return torch.tensor(made, dtype=torch.float32).reshape(BLOCK, BLOCK)


def cosines() -> Tensor:
    """Return the matrix [8,8] of the orthonormal DCT-II, a frequency a row."""
    n = torch.arange(BLOCK).double()
    made = torch.cos(math.pi / BLOCK * (n + 0.5) * n[:, None]) * math.sqrt(2 / BLOCK)
    made[0] /= math.sqrt(2)
    return made


def _coded(plane: Tensor, quantum: Tensor) -> Tensor:
    """Return planes [B,C,H,W], whole numbers of 0 to 255, after their blocks' DCT was rounded to the quanta."""
    height, width = plane.shape[-2:]
    padded = _padded(plane, BLOCK) - 128
    blocks = padded.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK)).transpose(-3, -2)  # [B,C,h,w,8,8]
    dct, quantum = cosines().to(plane), quantum.to(plane)
    kept = (dct @ blocks @ dct.T / quantum).round() * quantum
    read = (dct.T @ kept @ dct + 128).round().clamp(0, 255)
    return read.transpose(-3, -2).flatten(-4, -3).flatten(-2)[..., :height, :width]


def _by_column(plane: Tensor, even: float, odd: float) -> Tensor:
    """Return what libjpeg adds before it cuts off: a number for even columns and another for odd ones, [W]."""
    return torch.where(torch.arange(plane.shape[-1], device=plane.device) % 2 == 0, even, odd)


def _padded(plane: Tensor, multiple: int) -> Tensor:
    """Return planes with their last row and column repeated up to a multiple of a size."""
    height, width = plane.shape[-2:]
    return F.pad(plane, (0, -width % multiple, 0, -height % multiple), "replicate")
