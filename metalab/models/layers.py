"""The layers a meta-learned net needs: normalization of images, and batch norm that is right under torch.func."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.models.batch_norm_autograd import normalized
from metalab.models.batch_norm_pool_autograd import pooled
from metalab.models.conv_autograd import convert_conv

Seen = list[list[tuple[Tensor, Tensor]]]  # in one pass: of each norm the mean and variance [D] of each of its batches
_first: ContextVar[tuple[int, int | None] | None] = ContextVar("first", default=None)
_running: ContextVar[bool] = ContextVar("running", default=False)


@contextmanager
def support_statistics(images: int, of: int | None = None) -> Iterator[None]:
    """Let every BatchStatNorm take its statistics from the first images of a batch and apply them to all of it.

    of: how many images there are, where a batch may have several rows for each (its pairs with the classes).
    """
    token = _first.set((images, of))
    try:
        yield
    finally:
        _first.reset(token)


@contextmanager
def running_statistics() -> Iterator[None]:
    """Let every BatchStatNorm use its stored statistics; see estimate_running."""
    token = _running.set(True)
    try:
        yield
    finally:
        _running.reset(token)


class Normalize(nn.Module):
    """Map images [N,C,H,W] in [0,1] to zero mean and unit deviation per channel: the first layer of every net."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class BatchStatNorm(nn.Module):
    """Normalize by the statistics of the images passed together; never writes a buffer in forward.

    Batch norm (Ioffe & Szegedy 2015, algorithm 1) without torch's own, which gives wrong second-order gradients under
    vmap (see batch_norm_autograd.py). Takes [N,D] or [N,D,h,w]. The statistics come from the whole batch, from its
    first images (support_statistics) or from the buffers (running_statistics).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor, then_pool: bool = False) -> Tensor:
        """Return x normalized; then_pool: the ReLU of its 2x2 maxima, which takes one operation with the norm."""
        running, first = _running.get(), _first.get()
        if not running and first is None:
            return (pooled if then_pool else normalized)(x, self.weight, self.bias, self.eps)
        images, of = first or (None, None)
        rows = images if images is None or of is None else images * x.shape[0] // of
        mean, var = (self.running_mean, self.running_var) if running else batch_statistics(x[:rows])
        scale = self.weight * torch.rsqrt(var + self.eps)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        y = torch.addcmul((self.bias - mean * scale).view(shape), x, scale.view(shape))
        return F.max_pool2d(y, 2).relu() if then_pool else y


def has_batch_norm(net: nn.Module) -> bool:
    """Whether a net has a norm whose statistics may come from the images passed together."""
    return any(isinstance(module, BatchStatNorm) for module in net.modules())


class FeatureCentering(nn.Module):
    """Take the mean of the training images' features from features [N,D]; estimate_running measures it."""

    running_mean: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.running_mean


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance [D] of x [N,D] or [N,D,h,w] over all but the features."""
    over = [0, *range(2, x.dim())]
    var, mean = torch.var_mean(x, dim=over, correction=0)
    return mean, var


def convert(module: nn.Module) -> nn.Module:
    """Replace every batch norm and convolution of a net that is meta-learned from scratch by ours; return the net.

    A pretrained or frozen net is not converted: it keeps its running statistics.
    """
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        norm = BatchStatNorm(module.num_features, module.eps)
        if module.affine:
            norm.weight, norm.bias = module.weight, module.bias
        behind = list(module.children())  # timm's BatchNormAct2d has an activation inside
        return nn.Sequential(norm, *behind) if behind else norm
    if type(module) is nn.Conv2d:  # a subclass has a forward of its own, as a padding that follows the image
        return convert_conv(module)
    for name, child in module.named_children():
        setattr(module, name, convert(child))
    return module


@torch.no_grad()
def estimate_running(
    net: nn.Module, passes: list[Callable[[], object]], gather: Callable[[list[Seen]], list[Seen]] = list
) -> None:
    """Set the running statistics of every BatchStatNorm and Centre to the mean over passes of its batches'.

    Each pass calls the net on one batch or more; the plain average over batches is what torch.optim.swa_utils.update_bn
    computes with momentum None. Variances are unbiased there and here.
    """
    norms = [m for m in net.modules() if isinstance(m, BatchStatNorm | FeatureCentering)]
    seen: list[Seen] = []
    place = {id(m): i for i, m in enumerate(norms)}

    def collect(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, var = batch_statistics(inputs[0])
        count = inputs[0].numel() // inputs[0].shape[1]
        seen[-1][place[id(module)]].append((mean, var * count / max(count - 1, 1)))

    handles = [m.register_forward_pre_hook(collect) for m in norms]
    try:
        for run in passes:
            seen.append([[] for _ in norms])
            run()
    finally:
        for handle in handles:
            handle.remove()
    seen = gather(seen)
    for i, m in enumerate(norms):
        means, variances = zip(*(pair for of_norm in seen for pair in of_norm[i]), strict=True)
        m.running_mean.copy_(torch.stack(means).mean(0))
        if isinstance(m, BatchStatNorm):
            m.running_var.copy_(torch.stack(variances).mean(0))
