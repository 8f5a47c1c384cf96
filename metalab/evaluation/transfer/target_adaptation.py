"""Steps at test that change a trained net by a target's unlabelled training images alone: AdaBN and TENT."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from metalab.config.schema import Eval
from metalab.core.errors import UserError
from metalab.core.interfaces import Data, UnlabelledImages
from metalab.data.sampling.target_images import EndlessOrder
from metalab.data.storage.resize import resize_images
from metalab.models.feature_extractor import FrozenBatchNorm
from metalab.models.layers import BatchStatNorm, estimate_running

BATCH = 128  # images of a mini-batch: TENT's section 4, for other data than ImageNet, and OPTIM in conf.py of its code
RATE = 1e-3  # of Adam, ibid.
Norm = BatchStatNorm | FrozenBatchNorm | nn.modules.batchnorm._BatchNorm
HOW = "type data=domains data.source=... data.target=..., or leave it out"


def asked_for(evaluation: Eval) -> str:
    """Return the setting that adapts the net to a target, "eval.bn=target"; "" where none does."""
    if evaluation.tent is None:
        return "eval.bn=target" if evaluation.bn == "target" else ""
    if evaluation.bn not in (None, "target"):
        raise UserError(
            f"eval.tent={evaluation.tent} with eval.bn={evaluation.bn}: TENT normalizes by the target's statistics; "
            "type eval.bn=target, or leave it out"
        )
    return f"eval.tent={evaluation.tent}"


def target_images(data: Data, asked: str) -> UnlabelledImages:
    """Return the unlabelled training images of the data's target; UserError where it has none."""
    target = data.load("train").target
    if target is None:
        raise UserError(f"{asked} learns from unlabelled images of a target domain, and this data has none: {HOW}")
    return target


def adapt_to_target(net: nn.Module, target: UnlabelledImages, evaluation: Eval, has_support: bool, seed: int) -> str:
    """Adapt a net, in place, to a target's unlabelled training images, and return in words what was done.

    eval.bn=target: AdaBN (Li et al. 2017, algorithm 1). eval.tent=STEPS: TENT (Wang et al. 2021), then AdaBN with the
    new weights, by whose statistics the test images are classified one by one: neither sees a test image.

    Args:
        net: on its device, in evaluation mode; of a plain classifier where TENT is asked for.
        target: images of the net's size and channels.
        evaluation: says which of the two.
        has_support: whether the net is measured in episodes, and not as a plain classifier.
        seed: draws the order of the images.

    Raises:
        UserError: for a net without batch norm, and for TENT where there is no classifier.
    """
    asked, steps = asked_for(evaluation), evaluation.tent
    norms = batch_norms(net)
    if not norms:
        raise UserError(f"{asked}: the body of this net has no batch norm, which alone would be adapted: leave it out")
    if steps is not None and has_support:
        raise UserError(
            f"{asked} makes a plain classifier surer, and these are episodes, each with a classifier of its own: type "
            "data.protocol=images algo=baseline, or eval.bn=target"
        )
    count = len(target.images)
    order = EndlessOrder(count, seed, "target", "adapt")
    device = next(net.parameters()).device
    if steps is not None:
        tent(net, norms, (_floats(target, order(step * BATCH, BATCH), device) for step in range(steps)))
    whole = order(0, count).tensor_split(max(1, -(-count // BATCH)))
    adabn(net, norms, [_floats(target, some, device) for some in whole])
    learned = "" if steps is None else f"after {steps} steps of TENT on their batch norms' weights, "
    return f"{learned}batch norm by {count} training images of {target.name} without labels; no test image was seen"


def batch_norms(net: nn.Module) -> list[Norm]:
    """Return the batch norms of the body, ours and those of pretrained nets."""
    return [m for m in net.get_submodule("body").modules() if isinstance(m, Norm)]


@torch.no_grad()
def adabn(net: nn.Module, norms: Sequence[Norm], batches: Sequence[Tensor]) -> None:
    """Set each norm's running statistics to the mean of the batches' own: AdaBN (Li et al. 2017, algorithm 1).

    What torch.optim.swa_utils.update_bn computes: the plain mean over the batches, of unbiased variances.

    Args:
        net: in evaluation mode, which it keeps.
        norms: its batch norms.
        batches: images [N,C,H,W] in [0,1], shuffled, as a batch of one class alone would have too small variances.
    """
    with _by_batch(norms):
        for norm in norms:
            if not isinstance(norm, BatchStatNorm | FrozenBatchNorm):
                norm.reset_running_stats()
        ours = nn.ModuleList([norm for norm in norms if isinstance(norm, BatchStatNorm)])
        estimate_running(ours, [lambda x=x: net("features", x) for x in batches])


def tent(net: nn.Module, norms: Sequence[Norm], batches: Iterator[Tensor]) -> None:
    """Descend the mean entropy of the predictions by the norms' scales and shifts: TENT (Wang et al. 2021, section 3).

    Args:
        net: a plain classifier in evaluation mode, which it keeps.
        norms: its batch norms, which use each batch's own statistics meanwhile.
        batches: images [N,C,H,W] in [0,1], one a step.
    """
    learned = [p for norm in norms for p in (norm.weight, norm.bias) if p is not None]
    before = {p: p.requires_grad for p in net.parameters()}
    for p in before:
        p.requires_grad_(False)
    for p in learned:
        p.requires_grad_(True)
    optimizer = torch.optim.Adam(learned, lr=RATE)
    with _by_batch(norms):
        for x in batches:
            optimizer.zero_grad()
            logits = net("logits", x)
            loss = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
            loss.backward()
            optimizer.step()
    for p, needed in before.items():
        p.requires_grad_(needed)
        p.grad = None


@contextmanager
def _by_batch(norms: Sequence[Norm]) -> Iterator[None]:
    """Let norms with stored statistics use those of each batch, as ours do, and store the mean over all batches."""
    frozen = [norm for norm in norms if isinstance(norm, FrozenBatchNorm)]
    for norm in frozen:
        norm.batches = 0
    foreign = [norm for norm in norms if not isinstance(norm, BatchStatNorm | FrozenBatchNorm)]
    momenta = [norm.momentum for norm in foreign]
    for norm in foreign:
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm in frozen:
            norm.batches = None
        for norm, momentum in zip(foreign, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def _floats(target: UnlabelledImages, index: Tensor, device: torch.device) -> Tensor:
    return target.images[index].to(device).float() / 255


def resized(target: UnlabelledImages, channels: int, size: int) -> UnlabelledImages:
    """Return a target with its images as a net takes them."""
    return target._replace(images=resize_images(target.images, channels, size))
