"""PT-MAP: Hu, Gripon, Pateux 2021: features made more Gaussian, and classes of equally many queries."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means, members, squared_distances
from metalab.algorithms.components.heads import linear_head
from metalab.algorithms.components.optimal_transport import Transport, transport
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class PTMAP:
    """Train a plain classifier; for a task, alternate Sinkhorn assignments of the queries and class means (alg. 1).

    It takes for granted that every class has as many queries. Features are raised to a power, made of length 1, centred
    (support and queries each by their own mean) and made of length 1 again (sec. 3.1). They must not be negative, as
    what stands behind a ReLU is not: negative ones count as 0. Their QR decomposition turns the space, changes no
    distance and is left out. power: beta; sharpness: lambda; rate: alpha; epochs, sinkhorn: rounds of either loop.
    """

    way: int
    power: float
    sharpness: float
    rate: float
    epochs: int
    sinkhorn: int

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True, transductive=True)

    def __post_init__(self) -> None:
        for key in ("power", "sharpness", "rate", "epochs", "sinkhorn"):
            check_positive(f"algo.{key}", getattr(self, key))

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": linear_head(features, self.way)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        known = self._gaussian(learner.features(support.x).flatten(1))

        def model(x: Tensor) -> Tensor:
            return self.plan(known, support.y, self._gaussian(learner.features(x).flatten(1)))

        yield model

    def plan(self, known: Tensor, y: Tensor, asked: Tensor) -> Tensor:
        """Return the logarithm of the assignment [N,K] of queries asked [N,D], with a support known [M,D].

        Each assignment starts where the one before it ended, which is near.
        """
        means, images = class_means(known, y, self.way), torch.cat([known, asked])
        onto = members(y, self.way).to(known.dtype)
        found = self._assigned(asked, means, torch.ones_like(onto[0]))
        for _ in range(self.epochs):
            weights = torch.cat([onto, found.log_plan.exp()])
            means = means + self.rate * ((weights / weights.sum(0)).T @ images - means)
            found = self._assigned(asked, means, found.columns)
        return found.log_plan

    def _assigned(self, asked: Tensor, means: Tensor, columns: Tensor) -> Transport:
        return transport(squared_distances(asked, means), self.sharpness, self.sinkhorn, columns)

    def _gaussian(self, features: Tensor) -> Tensor:
        raised = F.normalize((features.relu() + 1e-6).pow(self.power), dim=1)
        return F.normalize(raised - raised.mean(0), dim=1)
