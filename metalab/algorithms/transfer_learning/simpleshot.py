"""SimpleShot: Wang, Chao, Weinberger, van der Maaten 2019: nearest centroid on transformed features."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from metalab.algorithms.components.distances import squared_distances
from metalab.algorithms.components.feature_transform import (
    Transform,
    transform_parts,
    transform_without_training,
    transformed,
)
from metalab.algorithms.components.heads import linear_head
from metalab.algorithms.components.medians import class_centers
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class SimpleShot:
    """Train a plain classifier of all training classes; for a task, take the nearest centroid of its features.

    transform: un, the features as they are; l2n, of length 1; cl2n, less the mean of the training features, then of
    length 1 (sec. 3.2). That mean is a running statistic of its own, estimated with those of batch norm. Nothing is
    adapted, so any net's features will do: metalab eval run=RUN algo=simpleshot takes those of another algorithm.
    prototype: the centroid is the mean of the features, as theirs is, or their spatial median, which wrong labels in
    the support move less (Liang et al. 2022).
    """

    way: int
    transform: Transform
    prototype: Literal["mean", "median"] = "mean"

    @property
    def traits(self) -> AlgorithmTraits:
        """Without training there is no mean of training features: cl2n is then l2n."""
        without = transform_without_training(self.transform)
        return AlgorithmTraits(without_training=without, frozen_body=True, exports_episode=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": linear_head(features, self.way), **transform_parts(features, self.transform)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        known = transformed(learner, support.x, self.transform)
        centroids = class_centers(known, support.y, self.way, self.prototype == "median")
        yield lambda x: -squared_distances(transformed(learner, x, self.transform), centroids)
