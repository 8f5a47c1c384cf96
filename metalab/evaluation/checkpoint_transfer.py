"""Another algorithm on a run's net at evaluation: what it takes along, and what it needs to be measured anew."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from metalab.algorithms.build import AlgorithmSettings
from metalab.algorithms.components.base_statistics import BaseStatistics
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.models.layers import FeatureCentering, running_statistics

logger = logging.getLogger("metalab")
CHUNK = 100  # images that go through the net at once
IMAGES = 1000  # training images whose features are averaged


def transfer_weights(net: nn.Module, algo: AlgorithmSettings, saved: dict[str, Any]) -> bool:
    """Load what a checkpoint's net holds for this one; return whether the features' mean must be measured.

    A head that a transfer method learns anew for each task may be absent, and what is the other algorithm's own is
    left out and said. UserError where anything else is missing or of another shape.
    """
    own = net.state_dict()
    given = {k: v for k, v in saved["net"].items() if k in own or not k.startswith("reg_")}  # else training's alone
    unused = sorted({k.partition(".")[0] for k in given if k not in own and not k.startswith("body.")})
    fits = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    centres = {f"{name}.running_mean" for name, m in net.named_modules() if isinstance(m, FeatureCentering)}
    free = centres | {k for k in own if k.startswith("head.") and algo.mini_batch is not None}
    misfits = [k for k in own if k not in fits and k not in free] + [
        k for k in given if k not in fits and (k.startswith("body.") or algo.mini_batch is None)
    ]
    if misfits:
        if misfits[0].startswith("reg_"):
            raise UserError(
                f"{misfits[0]} of reg is learned in training, and this run has none: leave out reg, as it comes from "
                "the run"
            )
        raise UserError(
            f"the checkpoint does not fit algo={algo.name} and the backbone as given now: {len(misfits)} tensors "
            f"differ, the first is {misfits[0]}; leave out algo and backbone, they come from the run"
        )
    net.load_state_dict(own | fits)
    if unused:
        logger.info(f"algo={algo.name} on the net of {saved['config']['algo']['name']}: not taken: {', '.join(unused)}")
    return any(name not in fits for name in centres)


@torch.no_grad()
def estimate_feature_mean(net: nn.Module, split: Split, bn: str) -> None:
    """Set the net's Centre to the mean feature of training images, evenly spaced through the split."""
    images = split.images[:: max(1, len(split.images) // IMAGES)]
    device = next(net.parameters()).device
    net.eval()
    with running_statistics() if bn == "running" else nullcontext():
        batches = [net("features", x.to(device).float() / 255).flatten(1) for x in images.split(100)]
    for module in net.modules():
        if isinstance(module, FeatureCentering):
            module.running_mean.copy_(torch.cat(batches).mean(0))


def base_statistics(net: nn.Module) -> BaseStatistics | None:
    """Return the part of a net that holds statistics of each training class; None: it has none."""
    return next((m for m in net.modules() if isinstance(m, BaseStatistics)), None)


def refuse_negative(base: BaseStatistics, f: Tensor) -> None:
    """Raise UserError for negative features where there must be none."""
    if base.nonnegative and bool((f < 0).any()):
        raise UserError(
            "algo.power raises features to a power, and this body's may be negative: type algo.power=1, or take a body "
            "that ends in a ReLU"
        )


@torch.no_grad()
def check_features(net: nn.Module, images: Tensor) -> None:
    """Raise UserError, before any training, where a body makes features of images [N,C,H,W] that may not be."""
    if (base := base_statistics(net)) is not None and base.nonnegative:
        with running_statistics():
            refuse_negative(base, net.eval()("features", _floats(images, next(net.parameters()).device)))


@torch.no_grad()
def measure_base_statistics(net: nn.Module, base: BaseStatistics, split: Split) -> None:
    """Measure the features of all training images, class by class and in chunks, on the net's device.

    Batch norm has its stored statistics: of one class's images, their own would be others than a test's.

    Raises:
        UserError: for negative features where there must be none.
    """
    device = next(net.parameters()).device
    net.eval()

    def features(images: Tensor, turn: int) -> Tensor:
        with running_statistics():
            pieces = [net("features", _floats(x, device).rot90(turn, (2, 3))).flatten(1) for x in images.split(CHUNK)]
        f = torch.cat(pieces)
        refuse_negative(base, f)
        return f

    def classes() -> Iterator[Tensor]:
        turns = torch.zeros_like(split.first) if split.turns is None else split.turns
        for first, count, turn in zip(split.first.tolist(), split.count.tolist(), turns.tolist(), strict=True):
            yield features(split.images[first : first + count], turn)

    logger.info(f"statistics of {int(split.count.sum())} training images of {len(split.ids)} classes are measured")
    base.measure(classes())


def _floats(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device).float() / 255
