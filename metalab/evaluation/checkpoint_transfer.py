"""Another algorithm on a run's net at evaluation: what it takes along, and what it needs to be measured anew."""

import logging
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from metalab.algorithms.build import AlgorithmSettings
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.models.layers import FeatureCentering, running_statistics

logger = logging.getLogger("metalab")
IMAGES = 1000  # training images whose features are averaged


def transfer_weights(net: nn.Module, algo: AlgorithmSettings, saved: dict[str, Any]) -> bool:
    """Load what a checkpoint's net holds for this one; return whether the features' mean must be measured.

    A head that a transfer method learns anew for each task may be absent, and what is the other algorithm's own is
    left out and said. UserError where anything else is missing or of another shape.
    """
    own, given = net.state_dict(), saved["net"]
    unused = sorted({k.partition(".")[0] for k in given if k not in own and not k.startswith("body.")})
    fits = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    centres = {f"{name}.running_mean" for name, m in net.named_modules() if isinstance(m, FeatureCentering)}
    free = centres | {k for k in own if k.startswith("head.") and algo.mini_batch is not None}
    misfits = [k for k in own if k not in fits and k not in free] + [
        k for k in given if k not in fits and (k.startswith("body.") or algo.mini_batch is None)
    ]
    if misfits:
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
