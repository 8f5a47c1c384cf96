"""SimpleShot: Wang, Chao, Weinberger, van der Maaten 2019: nearest centroid on transformed features."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means, squared_distances
from metalab.algorithms.components.heads import linear_head
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.models.layers import FeatureCentering


@dataclass(frozen=True)
class SimpleShot:
    """Train a plain classifier of all training classes; for a task, take the nearest centroid of its features.

    transform: un, the features as they are; l2n, of length 1; cl2n, less the mean of the training features, then of
    length 1 (sec. 3.2). That mean is a running statistic of its own, estimated with those of batch norm. Nothing is
    adapted, so any net's features will do: metalab eval run=RUN algo=simpleshot takes those of another algorithm.
    """

    way: int
    transform: Literal["un", "l2n", "cl2n"]

    @property
    def traits(self) -> AlgorithmTraits:
        """Without training there is no mean of training features: cl2n is then l2n."""
        without = {"transform": "l2n"} if self.transform == "cl2n" else {}
        return AlgorithmTraits(without_training=without, frozen_body=True, exports_episode=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        centre = {"centre": FeatureCentering(features)} if self.transform == "cl2n" else {}
        return {"head": linear_head(features, self.way), **centre}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        centroids = class_means(self._features(learner, support.x), support.y, self.way)
        yield lambda x: -squared_distances(self._features(learner, x), centroids)

    def _features(self, learner: Learner, x: Tensor) -> Tensor:
        features = learner.features(x).flatten(1)
        if self.transform == "cl2n":
            features = learner.part("centre", features)
        return features if self.transform == "un" else F.normalize(features, dim=1)
