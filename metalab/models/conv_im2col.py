"""Convolutions in groups as batched matrix products over columns, for a GPU: cuDNN has no fast kernel for small ones.

Where each task has kernels of its own, a convolution of T tasks in T groups is what is left of a meta-step. cuDNN takes
many small kernels and reorderings for one; here it is a copy and a product. The columns are kh x kw times the images:
worth it while they are small (docs/performance.md, On a GPU), and where conv_triton.py does not take the convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]
LARGEST = 128 * 2**20  # bytes of columns up to which it was faster on an H200


def is_faster(of: Tensor, images: torch.Size, weight: torch.Size, stride: Pair, padding: Pair, groups: int) -> bool:
    """Whether this way is faster than cuDNN's for images [N,C,h,w] and kernels [O,C/groups,kh,kw] of these shapes.

    of: a tensor of them, for its device and type. Measured in float32, and in TF32 for less than 64 channels a group.
    """
    if of.device.type != "cuda" or of.dtype != torch.float32 or groups == 1 or weight[1] == 1:
        return False
    h, w = output_size(images, (weight[2], weight[3]), stride, padding)
    size = images[0] * groups * weight[1] * weight[2] * weight[3] * h * w * of.element_size()
    return size <= LARGEST and (weight[1] < 64 or not tf32())


def tf32() -> bool:
    """Whether matrix products may use TF32, as engines/precision.py sets it."""
    if torch.__version__ >= "2.9":
        return torch.backends.cuda.matmul.fp32_precision == "tf32"  # type: ignore[attr-defined]
    return bool(torch.backends.cuda.matmul.allow_tf32)


def columns(x: Tensor, kernel: Pair, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """Return what each position's kernel sees of x [N,groups*C,h,w]: [N*groups,C*kh*kw,h'*w']."""
    n, own = x.shape[0], x.shape[1] // groups
    h, w = output_size(x.shape, kernel, stride, padding)
    x = F.pad(
        x, (padding[1], padding[1], padding[0], padding[0])
    ).contiguous()  # images and groups lie one after another
    _, of_channel, down, right = x.stride()
    steps = (own * of_channel, of_channel, down, right, stride[0] * down, stride[1] * right)
    seen = x.as_strided((n * groups, own, *kernel, h, w), steps)
    return seen.reshape(n * groups, own * kernel[0] * kernel[1], h * w)


def repeated(weight: Tensor, images: int, groups: int) -> Tensor:
    """Return kernels [groups*O,C,kh,kw] for each image and group: [images*groups,O,C*kh*kw]."""
    own = weight.reshape(1, groups, weight.shape[0] // groups, -1)
    return own.expand(images, -1, -1, -1).flatten(0, 1)


def output(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """Return the convolution [N,O,h',w'] of x [N,C,h,w] with weight [O,C/groups,kh,kw], plus bias [O]."""
    kernel = (weight.shape[2], weight.shape[3])
    h, w = output_size(x.shape, kernel, stride, padding)
    seen, kernels = columns(x, kernel, stride, padding, groups), repeated(weight, x.shape[0], groups)
    if bias is None:
        return torch.bmm(kernels, seen).view(x.shape[0], weight.shape[0], h, w)
    added = bias.view(1, groups, -1, 1).expand(x.shape[0], -1, -1, -1).flatten(0, 1)
    return torch.baddbmm(added, kernels, seen).view(x.shape[0], weight.shape[0], h, w)


def input_gradient(g: Tensor, weight: Tensor, shape: torch.Size, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """Return the gradient of the images, of this shape [N,C,h,w], from that of the output, g [N,O,h',w']."""
    kernel = (weight.shape[2], weight.shape[3])
    if stride == (1, 1):  # a convolution itself, with the kernels turned by half a turn
        turned = weight.unflatten(0, (groups, -1)).transpose(1, 2).flip(3, 4).flatten(0, 1)
        return output(g, turned, None, stride, (kernel[0] - 1 - padding[0], kernel[1] - 1 - padding[1]), groups)
    kernels = repeated(weight, shape[0], groups)
    spread = torch.bmm(kernels.transpose(1, 2), g.reshape(shape[0] * groups, kernels.shape[1], -1))
    return F.fold(spread, (shape[2], shape[3]), kernel, padding=padding, stride=stride).view(shape)


def weight_gradient(g: Tensor, x: Tensor, shape: torch.Size, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """Return the gradient of the kernels, of this shape [O,C/groups,kh,kw], from that of the output, g [N,O,h',w']."""
    seen = columns(x, (shape[2], shape[3]), stride, padding, groups)
    each = torch.bmm(g.reshape(x.shape[0] * groups, shape[0] // groups, -1), seen.transpose(1, 2))
    return each.view(x.shape[0], *shape).sum(0)


def output_size(shape: torch.Size, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """Return the height and width of the output of a convolution of images of this shape [N,C,h,w]."""
    h, w = ((shape[2 + i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2))
    return h, w
