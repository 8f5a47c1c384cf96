"""Batch norm, 2x2 max-pooling and ReLU as one operation, with first and second derivatives of its own.

The normalized map is not kept: pooling hands each gradient to one pixel, and the norm's derivatives need its input
alone. Pooled before the ReLU, which commutes and has then a quarter of the work.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from metalab.models import batch_norm_autograd, batch_norm_triton
from metalab.models.batch_norm_autograd import apply_per_task, with_signature

ATEN = torch.ops.aten
WINDOW = ([2, 2], [2, 2], [0, 0], [1, 1], False)


def pooled(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the ReLU of 2x2 maxima of x [N,D,h,w], normalized over all but D, times weight [D] plus bias [D]."""
    return BatchNormPoolForward.apply(x, weight, bias, eps)[0]  # type: ignore[index]


def maxima(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 2x2 maxima of a map and where they are, as max_pool2d_with_indices does, and on a CPU in a third of
    its time where the map is not channels-last: there torch's goes pixel by pixel.
    """
    if x.device.type != "cpu" or not x.is_contiguous():
        return ATEN.max_pool2d_with_indices(x, *WINDOW)
    width, h, w = x.shape[3], x.shape[2] // 2, x.shape[3] // 2
    left, right = x[:, :, : 2 * h, 0 : 2 * w : 2], x[:, :, : 2 * h, 1 : 2 * w : 2]
    best, second = torch.maximum(left, right), right > left
    (upper, lower), (up, low) = ((t[:, :, 0::2], t[:, :, 1::2]) for t in (best, second))
    below = lower > upper
    column = up ^ (below & (up ^ low))  # of equal ones the first, row by row, as torch has it
    first = 2 * width * torch.arange(h)[:, None] + 2 * torch.arange(w)
    at = below.to(torch.int16).mul_(width).add_(column).long().flatten(2).add_(first.flatten()).view_as(below)
    return torch.maximum(upper, lower), at


def unpool(g: Tensor, like: Tensor, at: Tensor, alive: Tensor) -> Tensor:
    """Return the gradient of a map [N,D,h,w] from that of its living maxima."""
    return ATEN.max_pool2d_with_indices_backward(g * alive, like, *WINDOW, at)


def gather_maxima(x: Tensor, at: Tensor, alive: Tensor) -> Tensor:
    """Return the pixels of a map that were the maxima, 0 where the ReLU left nothing of them."""
    return x.flatten(2).gather(2, at.flatten(2)).view_as(at) * alive


def is_marked(at: Tensor) -> bool:
    """Whether the places of the maxima are those of batch_norm_triton.py, which says by them too what is alive."""
    return at.dtype == torch.uint8


class BatchNormPoolForward(Function):
    """x, weight, bias, eps -> y, mean, 1 / deviation, where the maxima were."""

    @staticmethod
    @with_signature
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        if batch_norm_triton.takes(x):
            return batch_norm_triton.forward(x, weight, bias, eps)
        whole, mean, inverse = batch_norm_autograd.BatchNormForward.forward(x, weight, bias, eps)
        y, at = maxima(whole)
        return y.relu_(), mean, inverse, at

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        (x, weight, _, ctx.eps), (y, mean, inverse, at) = inputs, output
        ctx.mark_non_differentiable(mean, inverse, at)
        ctx.save_for_backward(x, weight, mean, inverse, at, at if is_marked(at) else y > 0)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        back = BatchNormPoolBackward.apply if torch.is_grad_enabled() else BatchNormPoolBackward.forward
        return *back(g, *ctx.saved_tensors, ctx.eps), None  # type: ignore[misc]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return apply_per_task(BatchNormPoolForward, info.batch_size, in_dims, args)


class BatchNormPoolBackward(Function):
    """g, x, weight, mean, 1 / deviation, where, alive, eps -> the gradients of x, weight and bias."""

    @staticmethod
    @with_signature
    def forward(
        g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, at: Tensor, alive: Tensor, eps: float
    ) -> Any:
        if is_marked(at):
            return batch_norm_triton.backward(g, x, at, weight, mean, inverse)
        return batch_norm_autograd.BatchNormBackward.forward(unpool(g, x, at, alive), x, weight, mean, inverse, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        twice = BatchNormPoolDoubleBackward.apply if torch.is_grad_enabled() else BatchNormPoolDoubleBackward.forward
        g, x, weight = twice(*given, *ctx.saved_tensors, ctx.eps)  # type: ignore[misc]
        return g, x, weight, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return apply_per_task(BatchNormPoolBackward, info.batch_size, in_dims, args)


class BatchNormPoolDoubleBackward(Function):
    """The gradients of Backward's outputs, its inputs and two of its outputs -> the gradients of its inputs."""

    @staticmethod
    @with_signature
    def forward(a: Tensor, to_weight: Tensor, to_bias: Tensor, *rest: Any) -> Any:
        g, x, weight, mean, inverse, at, alive, gw, gb, eps = rest
        if is_marked(at):
            return batch_norm_triton.double_backward(a, to_weight, to_bias, g, x, at, weight, mean, inverse, gw, gb)
        whole = unpool(g, x, at, alive)
        at_whole, *others = batch_norm_autograd.BatchNormDoubleBackward.forward(
            a, to_weight, to_bias, whole, x, weight, mean, inverse, gw, gb, eps
        )
        return gather_maxima(at_whole, at, alive), *others

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors[:6], *tensors[8:10])

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        a, to_weight, to_bias, g, x, weight, at, alive = ctx.saved_tensors
        if is_marked(at):
            at, alive = batch_norm_triton.positions(at, x.shape[3])

        def whole(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return gather_maxima(batch_norm_autograd.differentiable_batch_norm(x, weight, bias, ctx.eps), at, alive)

        return *batch_norm_autograd.higher_order(whole, (a, to_weight, to_bias, g, x, weight), given), *(None,) * 7

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return apply_per_task(BatchNormPoolDoubleBackward, info.batch_size, in_dims, args)
