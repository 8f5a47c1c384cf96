"""None of these: a threshold below which an image is unlike every class, so that few of the known ones are lost."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.serving.classifier import Adaptation
from metalab.serving.expectation import LeftOut

EPISODES = 20  # of the run's other classes, where the support is too small
OTHERS = 200  # images of other classes that show how many of them are marked


@dataclass(frozen=True)
class Threshold:
    """An image whose largest logit, before the temperature, is below `score` is of none of the classes."""

    score: float
    source: str  # what it was set on, in words


def largest_logit(logits: Tensor) -> Tensor:
    """Return how much images look like one of the classes [N]: the largest of their logits [N,K].

    Of distances and similarities it is the nearest class's (maximum logit score, Vaze et al. 2022, sec. 4).
    """
    return logits.amax(-1)


def least_scores(share: float) -> int:
    """Return how many scores a threshold needs that loses a share of the known images: one of M + 1 is the least."""
    return math.ceil(1 / share - 1e-9) - 1


def conformal_threshold(scores: Tensor, share: float) -> float | None:
    """Return the score below which at most a share of new known images falls, from scores [M] of known ones.

    The m-th smallest with m = floor(share (M + 1)): of images that are drawn alike, m / (M + 1) of the new ones are
    below it on average (split conformal prediction, Vovk et al. 2005). None where M is too small for the share.
    """
    m = math.floor(share * (len(scores) + 1) + 1e-9)
    return float(scores.sort().values[m - 1]) if m >= 1 else None


def threshold(left_out: LeftOut | None, share: float, of_others: Tensor | None) -> Threshold:
    """Return the threshold that loses a share of the known images.

    Args:
        left_out: the support's images as classified by the others; None: no class has two.
        share: predict.reject.
        of_others: scores [M] of known images in episodes of other classes of the run's data, where there are any.

    Raises:
        UserError: where neither are enough for so small a share.
    """
    scores = largest_logit(left_out.logits) if left_out is not None else torch.zeros(0)
    found = conformal_threshold(scores, share)
    if found is not None:
        return Threshold(found, f"{len(scores)} support images, each left out once")
    found = conformal_threshold(of_others, share) if of_others is not None else None
    if found is None:
        raise UserError(
            f"predict.reject={share:g} needs {least_scores(share)} support images of classes with 2 or more, here "
            f"{len(scores)}, or a run whose data are at hand: give more images, or a larger share"
        )
    return Threshold(found, "episodes of other classes of the run's data, as the support is too small")


def scores_of_known(adaptation: Adaptation, split: Split, way: int, shot: int, seed: int) -> Tensor:
    """Return the scores [M] of images of known classes in episodes of a split, of a support's way and shots."""
    able = (split.count > shot).nonzero().flatten()
    if len(able) < 2:
        raise UserError(f"the run's data has no two classes with more than {shot} images")
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(EPISODES):
        classes = able[torch.randperm(len(able), generator=draw)[: min(way, len(able))]]
        rows = [
            split.first[k] + torch.randperm(int(split.count[k]), generator=draw)[: shot + 5] for k in classes.tolist()
        ]
        known = torch.cat([row[:shot] for row in rows])
        asked = torch.cat([row[shot:] for row in rows])
        labels = torch.arange(len(classes)).repeat_interleave(shot)
        made = adaptation.adapt(
            adaptation.embed(split.images[known]), labels, [split.names[k] for k in classes.tolist()]
        )
        found.append(largest_logit(made.logits(split.images[asked])))
    return torch.cat(found)


def some_images(split: Split, seed: int) -> Tensor:
    """Return up to 200 images of a split, uint8 [N,C,H,W]."""
    draw = torch.Generator().manual_seed(seed)
    return split.images[torch.randperm(len(split.images), generator=draw)[:OTHERS]]
