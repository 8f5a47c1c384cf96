"""Relation networks: Sung, Yang, Zhang, Xiang, Torr, Hospedales 2018."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from metalab.algorithms.components.distances import members
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.core.typed_torch import broadcast_tensors, unflatten
from metalab.models.relation_module import Relation, map_shape


@dataclass(frozen=True)
class RelationNet:
    """Classify by a learned relation of the query's feature map and each class's, joined (eq. 1).

    pool: the maps of a class's supports are summed, as in the paper (sec. 3.2), or averaged, which lets another shot
    than in training stand at test. hidden: units of the relation module's dense layer.
    """

    way: int
    pool: Literal["sum", "mean"]
    hidden: int

    traits: ClassVar = AlgorithmTraits(frozen_body=True, exports_episode=True)

    def __post_init__(self) -> None:
        check_positive("algo.hidden", self.hidden)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"relation": Relation(*map_shape(body, features), self.hidden)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        maps = learner.features(support.x)  # [M,D,h,w]
        belongs = members(support.y, self.way).to(maps.dtype)
        weights = belongs / belongs.sum(0) if self.pool == "mean" else belongs
        classes = unflatten(weights.T @ maps.flatten(1), 1, maps.shape[1:])  # [K,D,h,w]

        def model(x: Tensor) -> Tensor:
            asked = learner.features(x)
            pairs = broadcast_tensors(classes, asked[:, None])  # [N,K,D,h,w] each
            related = learner.part("relation", torch.cat(pairs, 2).flatten(0, 1))
            return unflatten(related, 0, (asked.shape[0], self.way))[..., 0]

        yield model
