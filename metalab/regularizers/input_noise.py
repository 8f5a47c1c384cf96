"""Changed images in training: augmentation, and random noise, the control for adversarial training."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metalab.attacks.build import in_range
from metalab.core.interfaces import AttackedImages, Episode, Learner
from metalab.data.sampling.augment import Augment
from metalab.regularizers.base import IMAGES, Changed, Hooks, ObjectiveContext, ObjectiveFactory


@dataclass(frozen=True)
class Augmentation:
    """Crop, mirror, recolour and turn each image of support and query by a draw of its own; see Augment."""

    crop: int  # pixels
    flip: float
    jitter: float
    rotation: float  # degrees

    def __post_init__(self) -> None:
        self.hooks()

    def hooks(self) -> Hooks:
        return Hooks(augment=Augment(self.crop, self.flip, self.jitter, self.rotation))


@dataclass(frozen=True)
class Noise:
    """Add noise of a size to the images, clipped to [0, 1]: sign, +eps or -eps a pixel, or uniform between them.

    sign has the size of an adversarial perturbation that uses all of its eps. eps in 255ths.
    """

    eps: float
    kind: Literal["sign", "uniform"]
    on: AttackedImages

    def __post_init__(self) -> None:
        in_range("reg.noise.eps", self.eps)

    def hooks(self) -> Hooks:
        def noisy(x: Tensor) -> Tensor:
            draw = 2 * torch.rand_like(x) - 1
            size = torch.where(draw < 0, -1.0, 1.0).to(x.dtype) if self.kind == "sign" else draw
            return (x + self.eps / 255 * size).clamp(0.0, 1.0)

        def change(learner: Learner, episode: Episode) -> Episode:
            support, query = episode
            return Episode(
                support._replace(x=noisy(support.x)) if self.on != "query" else support,
                query._replace(x=noisy(query.x)) if self.on != "support" else query,
            )

        def wrap_objective(make: ObjectiveFactory, setting: ObjectiveContext) -> ObjectiveFactory:
            return lambda outer: Changed(make(outer), change)

        return Hooks(wrap_objective=wrap_objective, images=self.on, rank=IMAGES)
