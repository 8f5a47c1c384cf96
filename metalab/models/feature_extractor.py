"""What nets of other libraries have in common as backbones: no classifier, norms that keep their statistics."""

import logging
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from metalab.core.errors import UserError
from metalab.models.layers import convert

logger = logging.getLogger("metalab")


class FrozenBatchNorm(nn.Module):
    """Batch norm by its stored statistics alone, which is exact under torch.func; gain and shift are learned.

    What timm's norms have inside, as an activation behind them (BatchNormAct2d), follows. batches: None, or, while it
    is adapted to other images, how many it has seen: it takes the statistics of each and stores their mean, as torch's
    does with momentum None.
    """

    running_mean: Tensor
    running_var: Tensor
    batches: int | None = None

    def __init__(self, of: _BatchNorm) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = of.eps, of.weight, of.bias
        self.register_buffer("running_mean", of.running_mean)
        self.register_buffer("running_var", of.running_var)
        for name, child in of.named_children():  # drop, act
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        stored, affine, share = (self.running_mean, self.running_var), (self.weight, self.bias), 0.0
        if self.batches is not None:
            self.batches += 1
            share = 1 / self.batches
        x = F.batch_norm(x, *stored, *affine, training=self.batches is not None, momentum=share, eps=self.eps)
        for child in self._modules.values():
            if child is not None:
                x = child(x)
        return x


class FeatureExtractor(nn.Module):
    """A classification net less its last layer: images [N,1,H,W] or [N,3,H,W] to features [N,D,1,1].

    heads: the names of the layers that were taken off, whose weights are not wanted. size: the side of the images that
    it was made for.
    """

    def __init__(self, net: nn.Module, heads: tuple[str, ...], size: int) -> None:
        super().__init__()
        self.net, self.heads, self.size = net, heads, size
        self.attends = any(isinstance(module, nn.MultiheadAttention) for module in net.modules())

    def forward(self, x: Tensor) -> Tensor:
        # torch's fused attention has no second derivative
        plain = self.attends and torch.is_grad_enabled()
        with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            return self.net(x.expand(-1, 3, -1, -1)).flatten(1)[..., None, None]


def feature_extractor(
    net: nn.Module, heads: tuple[str, ...], pretrained: bool, key: str, shape: tuple[int, int]
) -> FeatureExtractor:
    """Return a net as a backbone's body.

    Args:
        net: without its classifier.
        heads: the names of the layers that were taken off.
        pretrained: whether its batch norms keep their running statistics; else they and its convolutions are converted.
        key: the backbone's name as it is typed, "backbone.name=resnet18".
        shape: channels and side of the images.

    Raises:
        UserError: where it cannot take such images.
    """
    channels, size = shape
    if channels not in (1, 3):
        raise UserError(f"{key} takes grey or RGB images; these have {channels} channels")
    body = FeatureExtractor(freeze_batch_norm(net) if pretrained else convert(net), heads, size)
    try:
        with torch.no_grad():
            body.eval()(torch.zeros(2, channels, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        if next(body.parameters()).is_meta:
            raise RuntimeError(str(error)) from error  # without memory not every net can be tried
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{key} cannot take images of {size}x{size}: {why}. Give another size, as data.size=224, or another net"
        ) from error
    return body


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm with stored statistics by FrozenBatchNorm; return the net."""
    if isinstance(module, _BatchNorm):
        return module if module.running_mean is None else FrozenBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, freeze_batch_norm(child))
    return module
