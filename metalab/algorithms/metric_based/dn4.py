"""DN4, deep nearest neighbour neural network: Li, Wang, Xu, Huo, Gao, Luo 2019."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.distances import members
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class DN4:
    """Classify by the image-to-class measure: each local descriptor of a query and its nearest ones in each class.

    The descriptors are the h x w vectors of a feature map; a class has those of all its supports. The logit is the sum
    over the query's descriptors of the cosines with its `neighbours` nearest there (sec. 3.2; their
    models/classifier.py:108-109). A class with fewer descriptors counts all it has, weighted up to as many.
    """

    way: int
    neighbours: int

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True)

    def __post_init__(self) -> None:
        check_positive("algo.neighbours", self.neighbours)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        maps = learner.features(support.x).flatten(2)  # [M,D,P]
        known = F.normalize(maps.mT.flatten(0, 1), dim=1)  # [MP,D]
        of = members(support.y, self.way).repeat_interleave(maps.shape[2], 0)  # [MP,K]
        most = min(self.neighbours, known.shape[0])

        def model(x: Tensor) -> Tensor:
            asked = F.normalize(learner.features(x).flatten(2).mT, dim=2)
            cosines = asked @ known.T  # [N,P,MP]
            sums: list[Tensor] = []
            for k in range(self.way):  # one class after another: all at once would hold K times the cosines
                nearest = torch.where(of[:, k], cosines, -torch.inf).topk(most, dim=2).values
                there = nearest.isfinite()
                total = torch.where(there, nearest, 0.0).sum((1, 2))
                sums.append(total * self.neighbours / there[0, 0].sum())
            return torch.stack(sums, 1)

        yield model
