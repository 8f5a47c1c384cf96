"""Convolution whose derivatives of every order are three convolutions, also under torch.func.

A convolution is linear in its images and in its kernels, so with the gradient of its output it makes one form,
<conv(x, w), g>, of three arguments, and each derivative of each order is one of its three partial ones: the output, the
images' gradient, the kernels' gradient. torch computes the kernels' gradient of a second derivative as a convolution
whose kernel is the whole map, and under vmap task by task.
"""

from collections.abc import Callable
from itertools import zip_longest
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd import Function

from metalab.models import conv_im2col, conv_triton
from metalab.models.batch_norm_autograd import with_signature

Pair = tuple[int, int]


@final
class Conv2d(nn.Conv2d):
    """torch's Conv2d with zero padding and no dilation, for nets that are differentiated twice."""

    def forward(self, input: Tensor) -> Tensor:
        return convolution(input, self.weight, self.bias, self.stride, self.padding, self.groups)  # type: ignore[arg-type]


def convert_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution as a Conv2d of this file with the same tensors; itself where it is not one of its kind."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str) or conv.dilation != (1, 1):
        return conv
    sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    ours = Conv2d(*sizes, groups=conv.groups, bias=conv.bias is not None)  # type: ignore[arg-type]
    ours.weight, ours.bias = conv.weight, conv.bias
    return ours


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int = 1) -> Tensor:
    """Return the cross-correlation [N,O,h',w'] of x [N,C,h,w] with weight [O,C/groups,kh,kw], plus bias [O].

    Under autocast it is computed in autocast's dtype, as torch's own is.
    """
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(
        kind
    ):  # here and not inside: a derivative runs where autocast may be off
        x, weight, *rest = (t.to(torch.get_autocast_dtype(kind)) for t in (x, weight, bias) if t is not None)
        bias = rest[0] if rest else None
    return Convolution.apply(x, weight, bias, stride, padding, groups)  # type: ignore[return-value]


def function_or_forward(function: type[Function]) -> Callable[..., Any]:
    """Return the function as it is called inside a backward: outside of a graph its forward alone will do."""
    return function.apply if torch.is_grad_enabled() else function.forward  # type: ignore[return-value]


def needs_gradient(ctx: Any) -> list[bool]:
    """Return which inputs of a Function this backward is to give a gradient of.

    ctx.needs_input_grad says which could have one; an attack's, on the images alone, is spared the weights' by this.
    """
    tensors = zip_longest(ctx.needs_input_grad, ctx.next_functions, fillvalue=(None, 0))  # these come first
    return [bool(able) and is_executed(node) for able, (node, _) in tensors]


def is_executed(node: Any) -> bool:
    """Return whether the backward that is running goes on to this node; torch refuses to say so of a leaf it is for."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:
        return True


def derivatives(g: Tensor, x: Tensor, weight: Tensor, bias: bool, how: tuple[Pair, Pair, int], mask: list[bool]) -> Any:
    """Return torch's first derivatives of a convolution with respect to x, weight and bias, those of the mask."""
    stride, padding, groups = how
    sizes = [weight.shape[0]] if bias else None
    return torch.ops.aten.convolution_backward(
        g, x, weight, sizes, stride, padding, [1, 1], False, [0, 0], groups, [*mask, bias and mask[1]]
    )


class Convolution(Function):
    """x, weight, bias or None, stride, padding, groups -> the convolution."""

    @staticmethod
    @with_signature
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, groups: int) -> Any:
        if conv_triton.takes(x, x.shape, weight.shape, stride, padding, groups):
            return conv_triton.output(x, weight, bias, stride, padding, groups)
        if conv_im2col.is_faster(x, x.shape, weight.shape, stride, padding, groups):
            return conv_im2col.output(x, weight, bias, stride, padding, groups)
        return torch.ops.aten.convolution(x, weight, bias, stride, padding, [1, 1], False, [0, 0], groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight, bias, *ctx.how = inputs
        ctx.bias = bias is not None
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x, weight), needs = ctx.saved_tensors, needs_gradient(ctx)
        of_x = function_or_forward(ConvolutionInputGradient)(g, weight, x.shape, *ctx.how) if needs[0] else None
        of_weight = of_bias = None
        if needs[1] or needs[2]:
            of_weight, of_bias = function_or_forward(ConvolutionWeightGradient)(g, x, weight.shape, ctx.bias, *ctx.how)
        return of_x, of_weight, of_bias if ctx.bias else None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Any:
        (dim_x, dim_weight, dim_bias, *_), tasks = in_dims, info.batch_size
        stride, padding, groups = how
        if dim_weight is None and dim_bias is None and not in_groups(x, weight.shape, how, tasks):
            x, sizes, dim = as_images(x, dim_x)  # one net: tasks are more images
            return Convolution.apply(x, weight, bias, *how).unflatten(0, sizes), dim  # type: ignore[union-attr]
        weight, bias = as_filters(weight, dim_weight, tasks), as_filters(bias, dim_bias, tasks)
        if dim_x is None and groups == 1:  # one set of images: tasks are more filters
            y = Convolution.apply(x, weight, bias, *how)
        else:
            y = Convolution.apply(as_channels(x, dim_x, tasks), weight, bias, stride, padding, groups * tasks)
        return y.unflatten(1, (tasks, -1)), 1  # type: ignore[union-attr]


class ConvolutionInputGradient(Function):
    """g, weight, the images' shape, stride, padding, groups -> the gradient of the images."""

    @staticmethod
    @with_signature
    def forward(g: Tensor, weight: Tensor, shape: Any, stride: Pair, padding: Pair, groups: int) -> Any:
        if conv_triton.takes(g, shape, weight.shape, stride, padding, groups):
            return conv_triton.input_gradient(g, weight, shape, stride, padding, groups)
        if conv_im2col.is_faster(g, shape, weight.shape, stride, padding, groups):
            return conv_im2col.input_gradient(g, weight, shape, stride, padding, groups)
        x = shape_only(shape, g)
        return derivatives(g, x, weight, False, (stride, padding, groups), [True, False])[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        g, weight, _, *ctx.how = inputs
        ctx.save_for_backward(g, weight)

    @staticmethod
    def backward(ctx: Any, a: Tensor) -> Any:
        (g, weight), needs = ctx.saved_tensors, needs_gradient(ctx)
        of_g = function_or_forward(Convolution)(a, weight, None, *ctx.how) if needs[0] else None
        of_weight = (
            function_or_forward(ConvolutionWeightGradient)(g, a, weight.shape, False, *ctx.how)[0] if needs[1] else None
        )
        return of_g, of_weight, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, g: Tensor, weight: Tensor, shape: Any, *how: Any) -> Any:
        (dim_g, dim_weight, *_), tasks = in_dims, info.batch_size
        stride, padding, groups = how
        if dim_weight is None and not in_groups(g, weight.shape, how, tasks):
            g, sizes, dim = as_images(g, dim_g)
            x = ConvolutionInputGradient.apply(g, weight, (g.shape[0], *shape[1:]), *how)
            return x.unflatten(0, sizes), dim  # type: ignore[union-attr]
        g, weight = as_channels(g, dim_g, tasks), as_filters(weight, dim_weight, tasks)
        wide = (shape[0], tasks * shape[1], *shape[2:])
        x = ConvolutionInputGradient.apply(g, weight, wide, stride, padding, groups * tasks)
        return x.unflatten(1, (tasks, -1)), 1  # type: ignore[union-attr]


class ConvolutionWeightGradient(Function):
    """g, x, the kernels' shape, whether there is a bias, stride, padding, groups -> the gradients of weight and bias.

    Without a bias the second is empty.
    """

    @staticmethod
    @with_signature
    def forward(g: Tensor, x: Tensor, shape: Any, bias: bool, stride: Pair, padding: Pair, groups: int) -> Any:
        if conv_triton.takes(x, x.shape, shape, stride, padding, groups):
            return conv_triton.weight_gradient(g, x, shape, bias, stride, padding, groups)
        if conv_im2col.is_faster(x, x.shape, shape, stride, padding, groups):
            of_bias = g.sum((0, 2, 3)) if bias else g.new_empty(0)
            return conv_im2col.weight_gradient(g, x, shape, stride, padding, groups), of_bias
        weight = shape_only(shape, x, g)  # images are not channels-last, where the first layer's maps are
        _, of_weight, of_bias = derivatives(g, x, weight, bias, (stride, padding, groups), [False, True])
        return of_weight, of_bias if bias else g.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        g, x, _, ctx.bias, *ctx.how = inputs
        ctx.save_for_backward(g, x)
        if not ctx.bias:
            ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, a: Tensor, of_bias: Tensor) -> Any:
        (g, x), needs = ctx.saved_tensors, needs_gradient(ctx)
        of_g = function_or_forward(Convolution)(x, a, of_bias if ctx.bias else None, *ctx.how) if needs[0] else None
        of_x = function_or_forward(ConvolutionInputGradient)(g, a, x.shape, *ctx.how) if needs[1] else None
        return of_g, of_x, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, g: Tensor, x: Tensor, shape: Any, bias: bool, *how: Any) -> Any:
        (dim_g, dim_x, *_), tasks = in_dims, info.batch_size
        stride, padding, groups = how
        wide, g = (tasks * shape[0], *shape[1:]), as_channels(g, dim_g, tasks)
        if dim_x is not None or groups != 1:
            x, groups = as_channels(x, dim_x, tasks), groups * tasks
        found = ConvolutionWeightGradient.apply(g, x, wide, bias, stride, padding, groups)
        of_weight, of_bias = (t.unflatten(0, (tasks, -1)) for t in found)  # type: ignore[union-attr]
        return (of_weight, of_bias), (0, 0)


def as_images(x: Tensor, dim: int) -> tuple[Tensor, Pair, int]:
    """Return x [T,N,...], or [N,T,...], as [T*N,...] without a copy, the two sizes, and which of them is the tasks'."""
    if dim > 1:
        x, dim = x.movedim(dim, 1), 1
    return x.flatten(0, 1), (x.shape[0], x.shape[1]), dim


def as_channels(x: Tensor, dim: int | None, tasks: int) -> Tensor:
    """Return maps [N,C,h,w] of all tasks as [N,tasks*C,h,w], as a convolution in groups has them.

    On a GPU they are channels-last, as the kernels of conv_triton.py have them.
    """
    x = x.unsqueeze(1).expand(-1, tasks, -1, -1, -1) if dim is None else x.movedim(dim, 1)
    if tasks == 1 or x.shape[2] > conv_triton.MOST or not conv_triton.takes_maps(x):
        return x.flatten(1, 2)
    return x.permute(0, 3, 4, 1, 2).flatten(3, 4).permute(0, 3, 1, 2)


def in_groups(x: Tensor, weight: torch.Size, how: tuple[Pair, Pair, int], tasks: int) -> bool:
    """Whether kernels that all tasks share are faster as so many groups with kernels of their own."""
    stride, _, groups = how
    return conv_triton.suits(x, (tasks * weight[0], *weight[1:]), stride, tasks * groups)


def as_filters(weight: Any, dim: int | None, tasks: int) -> Any:
    """Return kernels [O,C,kh,kw], or a bias [O], of all tasks as [tasks*O,...]; None stays None."""
    if weight is None:
        return None
    weight = weight.unsqueeze(0).expand(tasks, *weight.shape) if dim is None else weight.movedim(dim, 0)
    return weight.flatten(0, 1)


def shape_only(shape: Any, *likes: Tensor) -> Tensor:
    """Return a tensor of which torch will read the shape and the layout alone: channels-last where one of these is."""
    rows = any(t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous() for t in likes)
    layout = torch.channels_last if rows else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=likes[0].dtype, device=likes[0].device, memory_format=layout)
