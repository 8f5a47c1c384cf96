"""FEAT, few-shot embedding adaptation with a Transformer: Ye, Hu, Zhan, Sha 2020."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means, squared_distances
from metalab.algorithms.components.set_attention import SetAttention
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class FEAT:
    """Adapt the class means to each other by self-attention; the nearest one by squared distance is the answer.

    temperature: distances are divided by it. auxiliary: weight of the contrastive loss of training: each class's images
    of support and query are adapted among themselves, and each image, as it was, is told apart by its distance to the
    means of what became of them, divided by auxiliary_temperature (their model/models/feat.py:121-146). dropout: see
    SetAttention, whose four matrices have D^2 weights each: with a map of many positions take a backbone that averages
    it. Their body starts as a trained classifier's and learns at a tenth of the attention's rate; here all have one.
    """

    way: int
    temperature: float
    auxiliary: float
    auxiliary_temperature: float
    dropout: float

    traits: ClassVar = AlgorithmTraits(frozen_body=True, exports_episode=True)

    def __post_init__(self) -> None:
        check_positive("algo.temperature", self.temperature)
        check_positive("algo.auxiliary_temperature", self.auxiliary_temperature)
        if self.auxiliary < 0:
            raise UserError(f"algo.auxiliary={self.auxiliary:g}: expected 0 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"algo.dropout={self.dropout:g}: expected a share, 0 up to but not including 1")

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"attention": SetAttention(features, self.dropout)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        means = class_means(learner.features(support.x).flatten(1), support.y, self.way)
        adapted = learner.part("attention", means)
        yield lambda x: -squared_distances(learner.features(x).flatten(1), adapted) / self.temperature

    def auxiliary_loss(self, learner: Learner, known: Tensor, y: Tensor, asked: Tensor, labels: Tensor) -> Tensor:
        images, of = torch.cat([known, asked]).flatten(1), torch.cat([y, labels])
        centres = class_means(learner.part("attention", images, of[:, None] == of), of, self.way)
        return F.cross_entropy(-squared_distances(images, centres) / self.auxiliary_temperature, of)
