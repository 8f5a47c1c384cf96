"""Manifold mixup: Verma, Lamb, Beckham, Najafi, Mitliagkas, Lopez-Paz, Bengio 2019: mixtures inside the net."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Loss, Model
from metalab.regularizers.base import IMAGES, Hooks
from metalab.regularizers.mixup import share_of
from metalab.regularizers.output_penalties import CachedModel


class Mixture(NamedTuple):
    """What a pass through the net mixes."""

    order: Tensor  # int64 [N], with whom each of the last N images is mixed
    share: Tensor  # [] of its own
    place: Tensor  # [] in 0..1, where of all places


_mixture: ContextVar[Mixture | None] = ContextVar("mixture", default=None)


@contextmanager
def mixing(mixture: Mixture) -> Iterator[None]:
    """Let passes through a net to which ManifoldMixup is attached mix their images."""
    token = _mixture.set(mixture)
    try:
        yield
    finally:
        _mixture.reset(token)


@dataclass(frozen=True)
class ManifoldMixup:
    """Mix each query with another at one place of the net, and their losses alike, lam ~ Beta (sec. 2).

    The place is drawn for each pass, all alike: the images, or behind one of the backbone's blocks, of which theirs
    leave out the last ones. In an episode the support's features stay as they are.
    """

    alpha: float

    def __post_init__(self) -> None:
        check_positive("reg.manifold_mixup.alpha", self.alpha)

    def hooks(self) -> Hooks:
        def attach(net: nn.Module) -> None:
            places = [net.get_submodule("normalize"), *blocks(net.get_submodule("body"))]
            for i, module in enumerate(places):
                module.register_forward_hook(partial(mix, i, len(places)))

        return Hooks(outer=self._mixed, attach=attach, query=True, rank=IMAGES)

    def _mixed(self, loss: Loss) -> Loss:
        def value(model: Model, batch: Batch) -> Tensor:
            mixture = drawn(batch.x, self.alpha)
            x = batch.x.clone()  # who is asked for the images themselves answers without mixing
            with mixing(mixture):
                known = CachedModel(model, x, model(x))
            one, two = (loss(known, Batch(x, y, batch.unlabelled)) for y in (batch.y, batch.y[mixture.order]))
            return mixture.share * one + (1 - mixture.share) * two

        return value


def drawn(x: Tensor, alpha: float) -> Mixture:
    """Draw what is done to a pass of images x [N,C,H,W]."""
    order, place = torch.rand_like(x[:, 0, 0, 0]).argsort(), torch.rand_like(x[0, 0, 0, 0])
    return Mixture(order, share_of(alpha, x), place)


def mix(i: int, places: int, module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
    """Return what place i of so many gives out, mixed where it is the one that was drawn: a forward hook."""
    mixture = _mixture.get()
    if mixture is None:
        return out
    before = out.shape[0] - mixture.order.shape[0]  # the support, where its pass gives the statistics
    order = torch.cat([torch.arange(before, device=out.device), mixture.order + before])
    here = (mixture.place * places).floor().clamp(max=places - 1) == i
    own = torch.where(here, mixture.share, 1.0).to(out.dtype)
    return own * out + (1 - own) * out[order]


def blocks(body: nn.Module) -> list[nn.Module]:
    """Return those of a body's modules that are made of others: conv4's and resnet12's blocks, resnet18's layers.

    Raises:
        UserError: where the body is no sequence of them.
    """
    found = [m for m in body.children() if list(m.children())] if isinstance(body, nn.Sequential) else []
    if not found:
        raise UserError(
            "reg.manifold_mixup mixes behind the blocks of conv4, resnet12 and resnet18, and this backbone is no "
            "sequence of blocks: type reg=mixup, or another backbone"
        )
    return found
