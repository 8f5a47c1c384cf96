"""Prototypical networks: Snell, Swersky, Zemel 2017, algorithm 1; with unlabelled images: Ren et al. 2018, sec. 3.1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from metalab.algorithms.components.distances import squared_distances
from metalab.algorithms.components.medians import class_centers
from metalab.algorithms.components.soft_kmeans import refined_means
from metalab.algorithms.components.temperature import temperature, temperature_parts
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class ProtoNet:
    """Classify by the squared Euclidean distance to the mean of each class's support features (eq. 1 and 2).

    refine: steps of soft k-means in which the unlabelled images of the episode (task.unlabelled), each by its share of
    each class, move the prototypes (Ren et al. 2018, eq. 3 and 4; theirs is 1 step). Without such images it does
    nothing. temperature: distances are divided by it; learned_temperature: it is meta-learned and starts there (the
    metric scaling of Oreshkin et al. 2018, sec. 3.2). prototype: the mean of a class's features, or their spatial
    median, which wrong labels in the support move less (Liang et al. 2022); refining begins there.
    """

    way: int
    refine: int = 1
    temperature: float = 1.0
    learned_temperature: bool = False
    prototype: Literal["mean", "median"] = "mean"

    def __post_init__(self) -> None:
        check_positive("algo.temperature", self.temperature)
        if self.refine < 0:
            raise UserError(f"algo.refine={self.refine}: expected 0 steps or more")

    @property
    def traits(self) -> AlgorithmTraits:
        unlabelled = "read" if self.refine else "ignored"
        return AlgorithmTraits(unlabelled=unlabelled, without_training={}, frozen_body=True, exports_episode=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return temperature_parts(self.temperature, self.learned_temperature)

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        known = learner.features(support.x).flatten(1)
        prototypes = class_centers(known, support.y, self.way, self.prototype == "median")
        if support.unlabelled.shape[0] and self.refine:
            others = learner.features(support.unlabelled).flatten(1)
            prototypes = refined_means(prototypes, known, support.y, others, self.refine)
        scale = temperature(learner, self.temperature, self.learned_temperature)
        yield lambda x: -squared_distances(learner.features(x).flatten(1), prototypes) / scale
