"""CTX, CrossTransformers: Doersch, Gupta, Zisserman 2020."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metalab.algorithms.components.distances import members
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.models.relation_module import map_shape


@dataclass(frozen=True)
class CTX:
    """Classify by the distance to prototypes that attention aligns to each position of the query's feature map.

    A position p of the query attends to all positions of all supports of a class: the weights are the softmax of
    <k_p, k_m> / sqrt(key), and the prototype t_p is so weighted a sum of their values. The logit is minus the mean over
    the positions of |v_p - t_p|^2 (sec. 3.2; google-research/meta-dataset: learners/metric_learners.py).
    Keys and values are linear in the descriptors, the same ones for support and query.

    key, value: how many channels each has. Their episodes of SimCLR, whose classes are single images, are not here.
    """

    way: int
    key: int
    value: int

    traits: ClassVar = AlgorithmTraits(frozen_body=True, exports_episode=True)

    def __post_init__(self) -> None:
        check_positive("algo.key", self.key)
        check_positive("algo.value", self.value)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        channels = map_shape(body, features)[0]
        return {
            name: nn.Linear(channels, size, bias=False) for name, size in (("key", self.key), ("value", self.value))
        }

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        keys, values = self._read(learner, support.x)  # [M,P,key], [M,P,value]
        of = members(support.y, self.way).repeat_interleave(keys.shape[1], 0)  # [MP,K]
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)

        def model(x: Tensor) -> Tensor:
            asked, own = self._read(learner, x)
            scores = asked @ keys.T / self.key**0.5  # [N,P,MP]
            distances: list[Tensor] = []
            for k in range(self.way):  # one class after another: all at once would hold K times the scores
                aligned = torch.where(of[:, k], scores, -torch.inf).softmax(2) @ values
                distances.append((own - aligned).square().sum(2).mean(1))
            return -torch.stack(distances, 1)

        yield model

    def _read(self, learner: Learner, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys [N,P,key] and the values [N,P,value] of images' positions."""
        rows = learner.features(x).flatten(2).mT
        return learner.part("key", rows), learner.part("value", rows)
