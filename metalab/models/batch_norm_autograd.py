"""Batch norm by the statistics of the batch whose first and second derivatives are right, and fast, under torch.func.

torch's own batch norm gives wrong second-order gradients under vmap, and written out with mean and variance it takes
some thirty passes over the feature map where eight do. Here vmap only lays the tasks side by side as more channels.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from metalab.models import batch_norm_triton


def normalized(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return x [N,D] or [N,D,h,w] normalized over all but D, times weight [D] plus bias [D] (Ioffe & Szegedy 2015)."""
    return BatchNormForward.apply(x, weight, bias, eps)[0]  # type: ignore[index]


def with_signature(forward: Callable) -> Callable:
    """Keep the signature of a Function's forward on it: apply asks inspect for it at every call, which is slow."""
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return forward


class BatchNormForward(Function):
    """x, weight, bias, eps -> y, mean, 1 / deviation."""

    @staticmethod
    @with_signature
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        (x, weight, _, ctx.eps), (_, mean, inverse) = inputs, output
        ctx.mark_non_differentiable(mean, inverse)
        ctx.save_for_backward(x, weight, mean, inverse)

    @staticmethod
    def backward(ctx: Any, gy: Tensor, *_: Any) -> Any:
        if not torch.is_grad_enabled():  # the last derivative; never so inside a transform of torch.func
            return *BatchNormBackward.forward(gy, *ctx.saved_tensors, ctx.eps), None
        return *BatchNormBackward.apply(gy, *ctx.saved_tensors, ctx.eps), None  # type: ignore[misc]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return apply_per_task(BatchNormForward, info.batch_size, in_dims, args)


class BatchNormBackward(Function):
    """gy, x, weight, mean, 1 / deviation, eps -> the gradients of x, weight and bias."""

    @staticmethod
    @with_signature
    def forward(gy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, eps: float) -> Any:
        if batch_norm_triton.takes(x):
            return batch_norm_triton.backward(gy, x, None, weight, mean, inverse)
        whole = [True, True, True]
        return torch.ops.aten.native_batch_norm_backward(gy, x, weight, None, None, mean, inverse, True, eps, whole)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        twice = BatchNormDoubleBackward.apply if torch.is_grad_enabled() else BatchNormDoubleBackward.forward
        gy, x, weight = twice(*given, *ctx.saved_tensors, ctx.eps)  # type: ignore[misc]
        return gy, x, weight, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return apply_per_task(BatchNormBackward, info.batch_size, in_dims, args)


class BatchNormDoubleBackward(Function):
    """The gradients of Backward's outputs, its inputs and two of its outputs -> the gradients of its inputs.

    With h = (x - mean) / deviation, a the gradient of x's gradient and E the mean over the batch,
    gx = weight / deviation (gy - E gy - h E(gy h)). All results are sums of a, gy and h with one factor a channel each.
    """

    @staticmethod
    @with_signature
    def forward(a: Tensor, to_weight: Tensor, to_bias: Tensor, *rest: Any) -> Any:
        gy, x, weight, mean, inverse, gw, gb, eps = rest
        if batch_norm_triton.takes(x):
            return batch_norm_triton.double_backward(a, to_weight, to_bias, gy, x, None, weight, mean, inverse, gw, gb)
        like = (1, -1) + (1,) * (x.dim() - 2)
        count = x.numel() // x.shape[1]
        at_gy, ah, a_sum = BatchNormBackward.forward(a, x, weight, mean, inverse, eps)
        both = (a * gy).sum([0, *range(2, x.dim())])
        k = both - a_sum * gb / count - ah * gw / count
        of_a = -weight * inverse.square() * gw / count
        of_gy = to_weight * inverse - weight * inverse.square() * ah / count
        of_h = (2 * weight * inverse.square() * ah / count - to_weight * inverse) * gw / count
        of_h = of_h - weight * inverse.square() * k / count
        of_x = of_h * inverse
        shift = -(of_a * a_sum + of_gy * gb) / count - of_x * mean
        at_x = torch.addcmul(shift.view(like), a, of_a.view(like))
        at_x.addcmul_(gy, of_gy.view(like)).addcmul_(x, of_x.view(like))
        slope = to_weight * inverse
        at_gy = at_gy.addcmul_(x, slope.view(like)).add_((to_bias - slope * mean).view(like))
        return at_gy, at_x, inverse * k

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors[:6])

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        whole = partial(differentiable_batch_norm, eps=ctx.eps)
        return *higher_order(whole, ctx.saved_tensors, given), None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return apply_per_task(BatchNormDoubleBackward, info.batch_size, in_dims, args)


def differentiable_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return what `normalized` does, by operations that can be differentiated as often as one likes."""
    over, like = [0, *range(2, x.dim())], (1, -1) + (1,) * (x.dim() - 2)
    var, mean = torch.var_mean(x, dim=over, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(var + eps) * weight.view(like) + bias.view(like)


def higher_order(function: Callable, at: Any, given: Any) -> Any:
    """Return the gradients of Twice's first six inputs, `at`, from those of its outputs; function: the norm."""

    def first(gy: Tensor, x: Tensor, weight: Tensor) -> Any:
        return torch.func.vjp(function, x, weight, weight)[1](gy)

    def twice(a: Tensor, to_weight: Tensor, to_bias: Tensor, *where: Tensor) -> Any:
        return torch.func.vjp(first, *where)[1]((a, to_weight, to_bias))

    return torch.func.vjp(twice, *at)[1](given)


def apply_per_task(function: type[Function], tasks: int, in_dims: Any, args: Any) -> Any:
    """Run a function of this file on all tasks at once: channels are normalized apart, so tasks may be channels.

    Maps [N,C,...] become [N,tasks*C,...], as a convolution of all tasks in groups leaves them; vectors [C], [tasks*C].
    """
    mixed = [a if d is None else a.movedim(d, min(1, a.dim() - 2)) for a, d in zip(args, in_dims, strict=True)]
    flat = []
    for a, dim in zip(mixed, in_dims, strict=True):
        if not isinstance(a, Tensor):
            flat.append(a)
            continue
        at = min(1, a.dim() - (1 if dim is None else 2))
        every = a.unsqueeze(at).expand(*a.shape[:at], tasks, *a.shape[at:]) if dim is None else a
        flat.append(every.flatten(at, at + 1))
    results = function.apply(*flat)
    results = results if isinstance(results, tuple) else (results,)
    apart = tuple(r.unflatten(min(1, r.dim() - 1), (tasks, -1)) for r in results)
    return apart, tuple(min(1, r.dim() - 1) for r in results)
