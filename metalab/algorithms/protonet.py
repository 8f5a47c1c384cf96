"""Prototypical networks: Snell, Swersky, Zemel 2017, algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from metalab.inner import class_means
from metalab.interfaces import Batch, Learner, Loss, Model


@dataclass(frozen=True)
class ProtoNet:
    """Classify by the squared Euclidean distance to the mean of each class's support features (eq. 1 and 2)."""

    way: int

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        prototypes = class_means(learner.features(support.x).flatten(1), support.y, self.way)

        def model(x: Tensor) -> Tensor:
            features = learner.features(x).flatten(1)
            return -(features[:, None] - prototypes).square().sum(-1)

        yield model
