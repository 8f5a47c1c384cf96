"""MetaOptNet-SVM: Lee, Maji, Ravichandran, Soatto 2019, sec. 3.2."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metalab.ingredients.inner import positive
from metalab.ingredients.metric import members
from metalab.ingredients.svm import available, dual
from metalab.interfaces import Batch, Learner, Loss, Model


@dataclass(frozen=True)
class MetaOptNet:
    """Classify by a linear support vector machine on the support's features, through whose solution the body learns.

    C: its penalty for a support on the wrong side; scale: where the learned factor of its outputs starts. It has no
    inner step, and it takes any way. The ridge variant is algo=r2d2.
    """

    way: int
    C: float
    scale: float

    def __post_init__(self) -> None:
        available()
        positive("algo.C", self.C)
        positive("algo.scale", self.scale)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"svm": nn.ParameterDict({"scale": torch.tensor(self.scale)})}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        features, scale = learner.features(support.x).flatten(1), learner.parameters()["svm.scale"]
        weights = dual(features @ features.T, members(support.y, self.way).to(features.dtype), self.C)

        def model(x: Tensor) -> Tensor:
            return scale * (learner.features(x).flatten(1) @ features.T @ weights)

        yield model
