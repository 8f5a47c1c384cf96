"""Soft k-means on the queries: Ren et al. 2018, sec. 3.1, with the queries in the place of unlabelled images."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means, squared_distances
from metalab.algorithms.components.feature_transform import (
    Transform,
    transform_parts,
    transform_without_training,
    transformed,
)
from metalab.algorithms.components.heads import linear_head
from metalab.algorithms.components.soft_kmeans import refined_means
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class SoftKMeans:
    """Train a plain classifier; for a task, the nearest class mean after the queries have moved them.

    transform: of the features, as SimpleShot's. refine: steps. temperature: squared distances are divided by it.
    """

    way: int
    transform: Transform
    refine: int
    temperature: float

    def __post_init__(self) -> None:
        check_positive("algo.refine", self.refine)
        check_positive("algo.temperature", self.temperature)

    @property
    def traits(self) -> AlgorithmTraits:
        without = transform_without_training(self.transform)
        return AlgorithmTraits(without_training=without, frozen_body=True, transductive=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": linear_head(features, self.way), **transform_parts(features, self.transform)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        known = transformed(learner, support.x, self.transform)
        first = class_means(known, support.y, self.way)

        def model(x: Tensor) -> Tensor:
            asked = transformed(learner, x, self.transform)
            means = refined_means(first, known, support.y, asked, self.refine, self.temperature)
            return -squared_distances(asked, means) / self.temperature

        yield model
