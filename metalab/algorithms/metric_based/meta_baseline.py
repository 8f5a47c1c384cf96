"""Meta-Baseline: Chen, Liu, Xu, Darrell, Wang 2021: the nearest centroid by cosine, meta-learned from a classifier."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from metalab.algorithms.components.distances import class_means, cosines
from metalab.algorithms.components.temperature import temperature, temperature_parts
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class MetaBaseline:
    """Classify by the cosine to each class's mean feature, times a scale (sec. 3.2; their models/meta_baseline.py).

    ProtoNet has distances in its place, SimpleShot means of unit features. The body is to start as that of a plain
    classifier of the training classes, which train.phases or train.init say. scale: tau; learned_scale: it is
    meta-learned and starts there.
    """

    way: int
    scale: float
    learned_scale: bool

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True, exports_episode=True)

    def __post_init__(self) -> None:
        check_positive("algo.scale", self.scale)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return temperature_parts(1 / self.scale, self.learned_scale)

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        means = class_means(learner.features(support.x).flatten(1), support.y, self.way)
        divided_by = temperature(learner, 1 / self.scale, self.learned_scale)
        yield lambda x: cosines(learner.features(x).flatten(1), means) / divided_by
