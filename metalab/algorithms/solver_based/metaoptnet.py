"""MetaOptNet-SVM: Lee, Maji, Ravichandran, Soatto 2019, sec. 3.2."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metalab.algorithms.components.distances import members
from metalab.algorithms.components.solvers.svm import available, dual
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class MetaOptNet:
    """Classify by a linear support vector machine on the support's features, through whose solution the body learns.

    C: its penalty for a support on the wrong side; scale: where the learned factor of its outputs starts. It has no
    inner step, and it takes any way. The ridge variant is algo=r2d2.
    """

    way: int
    C: float
    scale: float

    traits: ClassVar = AlgorithmTraits(  # proxsuite solves on the processor
        leaves_device=True, without_training={}, frozen_body=True
    )

    def __post_init__(self) -> None:
        available()
        check_positive("algo.C", self.C)
        check_positive("algo.scale", self.scale)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"svm": nn.ParameterDict({"scale": torch.tensor(self.scale)})}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        features, scale = full(learner.features(support.x)), learner.parameters()["svm.scale"]
        with torch.autocast(features.device.type, enabled=False):
            weights = dual(features @ features.T, members(support.y, self.way).to(features.dtype), self.C)

        def model(x: Tensor) -> Tensor:
            asked = full(learner.features(x))
            with torch.autocast(features.device.type, enabled=False):
                return scale * (asked @ features.T @ weights)

        yield model


def full(features: Tensor) -> Tensor:
    """Return features [N,...] as [N,D], in float32 at least, which autocast would have made less."""
    return features.flatten(1).to(torch.promote_types(features.dtype, torch.float32))
