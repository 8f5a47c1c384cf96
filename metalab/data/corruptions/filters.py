"""Linear operations on images that corruptions are made of; those of rows and columns alone are two matrices."""

import math

import torch
from torch import Tensor


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images [...,H,W] times a matrix [h,H] down and a matrix [w,W] across: [...,h,w]."""
    return rows.to(x) @ x @ columns.to(x).T


def symmetric(index: Tensor, size: int) -> Tensor:
    """Return indices beyond an axis mirrored at its edges, d c b a | a b c d: scipy's "reflect"."""
    index = index % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def reflected(index: Tensor, size: int) -> Tensor:
    """Return indices beyond an axis mirrored at its last pixels, d c b | a b c d: OpenCV's BORDER_REFLECT_101."""
    period = max(2 * (size - 1), 1)
    index = index % period
    return torch.minimum(index, period - index)


def gaussian(size: int, sigma: float, truncate: float, mirror: bool) -> Tensor:
    """Return the matrix [size,size] of a Gaussian filter along an axis, as scipy.ndimage.gaussian_filter1d.

    Args:
        size: of the axis.
        sigma: standard deviation in pixels.
        truncate: of the window, in standard deviations.
        mirror: whether the axis is mirrored at its edges ("reflect"); else its last pixel goes on ("nearest").
    """
    radius = int(truncate * sigma + 0.5)
    tap = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 / max(sigma, 1e-6) ** 2 * tap.double() ** 2)
    source = torch.arange(size)[:, None] + tap
    source = symmetric(source, size) if mirror else source.clamp(0, size - 1)
    made = torch.zeros(size, size, dtype=torch.float64)
    return made.scatter_add_(1, source, (weight / weight.sum()).expand(size, -1))


def zoom(size: int, factor: float) -> Tensor:
    """Return the matrix [size,size] that enlarges the middle of an axis by a factor >= 1: clipped_zoom of the authors.

    The middle is cut out, enlarged linearly with its first and last pixel kept in place (scipy.ndimage.zoom, order 1),
    and cut to the size again.
    """
    part = math.ceil(size / factor)
    wide = max(round(part * factor), size)
    at = (torch.arange(size) + (wide - size) // 2).double() * (part - 1) / max(wide - 1, 1)
    below = at.floor().clamp(0, max(part - 2, 0)).long()
    share, start = (at - below)[:, None], (size - part) // 2
    made = torch.zeros(size, size, dtype=torch.float64)
    made.scatter_add_(1, below[:, None] + start, 1 - share)
    return made.scatter_add_(1, (below[:, None] + start + 1).clamp(max=size - 1), share)


def box(size: int, wanted: int) -> Tensor:
    """Return the matrix [wanted,size] of Pillow's resize with a BOX filter: the mean of the pixels inside of each."""
    scale = size / wanted
    wide = max(scale, 1.0)
    centre = (torch.arange(wanted).double() + 0.5) * scale
    first = (centre - wide / 2 + 0.5).long().clamp(min=0)
    last = (centre + wide / 2 + 0.5).long().clamp(max=size)
    pixel = torch.arange(size)
    where = (pixel - centre[:, None] + 0.5) / wide
    inside = (where > -0.5) & (where <= 0.5) & (pixel >= first[:, None]) & (pixel < last[:, None])
    return inside.double() / inside.sum(1, keepdim=True)


def convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """Return images [...,H,W] correlated with a kernel [k,k], k odd, the same size, mirrored as cv2.filter2D does."""
    height, width = x.shape[-2:]
    reach = len(kernel) // 2
    y, z = (reflected(torch.arange(-reach, n + reach, device=x.device), n) for n in (height, width))
    padded = x[..., y[:, None], z].reshape(-1, 1, height + 2 * reach, width + 2 * reach)
    return torch.nn.functional.conv2d(padded, kernel.to(x)[None, None]).reshape(x.shape)


def motion(x: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """Return images blurred along a line from each pixel, as ImageMagick's MotionBlurImage.

    The line has 2 ceil(radius) + 1 pixels, with the weights of one half of a Gaussian; beyond the edge the last pixel
    goes on.

    Args:
        x: [...,C,H,W].
        radius: of the blur in pixels.
        sigma: standard deviation of the Gaussian in pixels.
        angle: [...], of each image's line, in degrees.
    """
    channels, height, width = x.shape[-3:]
    flat, turn = x.reshape(-1, channels, height * width), torch.deg2rad(angle.double().reshape(-1, 1, 1))
    y, z = torch.arange(height, device=x.device)[:, None], torch.arange(width, device=x.device)
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(2 * math.ceil(radius) + 1)]
    made = torch.zeros_like(flat)
    for i, weight in enumerate(weights):
        down, across = ((i * part - 0.5).ceil().long() for part in (turn.sin(), turn.cos()))
        source = (y + down).clamp(0, height - 1) * width + (z + across).clamp(0, width - 1)
        taken = flat.gather(2, source.reshape(-1, 1, height * width).expand(-1, channels, -1))
        made.add_(taken, alpha=weight / sum(weights))
    return made.reshape(x.shape)
