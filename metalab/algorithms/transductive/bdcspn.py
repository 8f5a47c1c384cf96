"""BD-CSPN: Liu, Song, Qin 2020: prototypes rectified by the queries, whose distribution is moved to the support's."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from metalab.algorithms.components.distances import cosines
from metalab.algorithms.components.feature_transform import (
    Transform,
    transform_parts,
    transform_without_training,
    transformed,
)
from metalab.algorithms.components.heads import linear_head
from metalab.algorithms.components.prototype_rectification import rectified, shifted
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class BDCSPN:
    """Train a plain classifier; for a task, move the queries to the support's mean and the prototypes by the queries.

    transform: of the features, as SimpleShot's. scale: epsilon of their eq. 7, of the cosines that weigh images.
    """

    way: int
    transform: Transform
    scale: float

    def __post_init__(self) -> None:
        check_positive("algo.scale", self.scale)

    @property
    def traits(self) -> AlgorithmTraits:
        without = transform_without_training(self.transform)
        return AlgorithmTraits(without_training=without, frozen_body=True, transductive=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": linear_head(features, self.way), **transform_parts(features, self.transform)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        known = transformed(learner, support.x, self.transform)

        def model(x: Tensor) -> Tensor:
            asked = shifted(known, transformed(learner, x, self.transform))
            return self.scale * cosines(asked, rectified(known, support.y, asked, self.way, self.scale, "images"))

        yield model
