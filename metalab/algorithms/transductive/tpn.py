"""TPN, the transductive propagation network: Liu, Lee, Park, Kim, Yang, Hwang, Yang 2019."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metalab.algorithms.components.distances import members
from metalab.algorithms.components.heads import full_precision
from metalab.algorithms.components.query_graph import spread_labels, strongest
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.models.relation_module import Scale, map_shape

EPS = 2.220446049250313e-16  # theirs, float64's (models.py:160): no scale and no degree is 0


@dataclass(frozen=True)
class TPN:
    """Spread the support's labels over a graph of support and queries in closed form (eq. 4), and learn what is near.

    W_ij = exp(-d / 2) with d the mean over the D features of (f_i / s_i - f_j / s_j)^2, each image's scale s_i by a
    network from its feature map (eq. 2 and 3); an image is one of its own neighbours, as in their code. neighbours:
    the largest W_ij of a row that are kept; alpha: share of the neighbours in a label. The logits are F* (eq. 5); the
    loss is the queries', theirs the support's too.
    """

    way: int
    neighbours: int
    alpha: float

    traits: ClassVar = AlgorithmTraits(frozen_body=True, transductive=True)

    def __post_init__(self) -> None:
        check_positive("algo.neighbours", self.neighbours)
        if not 0 < self.alpha < 1:
            raise UserError(f"algo.alpha={self.alpha:g}: expected a number above 0 and below 1")

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"scale": Scale(*map_shape(body, features))}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        known, onto = learner.features(support.x), members(support.y, self.way)

        def model(x: Tensor) -> Tensor:
            maps = torch.cat([known, learner.features(x)])
            with full_precision(maps.device.type):  # scales and distances of bfloat16 products are noise
                scaled = maps.flatten(1) / (learner.part("scale", maps) + EPS)
                lengths = scaled.square().sum(1)
                apart = (lengths[:, None] + lengths - 2 * scaled @ scaled.T).clamp(min=0) / scaled.shape[1]
                affinity = strongest((-apart / 2).exp(), self.neighbours)
                labels = torch.cat([onto.to(maps.dtype), maps.new_zeros(x.shape[0], self.way)])
                return spread_labels(affinity, labels, self.alpha, EPS)[support.y.shape[0] :]

        yield model
