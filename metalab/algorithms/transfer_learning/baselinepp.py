"""Baseline++: Chen, Liu, Kira, Wang, Huang 2019, sec. 3.2: Baseline with cosine similarities as logits.

With a margin below 0 in training it is negative margin (Liu, Cao, Lin, Li, Zhang, Long, Hu 2020).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metalab.algorithms.components.cosine_head import Cosine, fitted_cosines
from metalab.algorithms.components.distances import members
from metalab.algorithms.components.heads import SGD
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class BaselinePP:
    """Train body and a cosine head on all training classes; for a task, learn a new one on the frozen features.

    The task's head starts at the class means, for a cosine has no zero to start at.
    epochs, batch, lr, momentum, dampening, weight_decay: of the task's head.

    margin: in training the logit of an image's own class is scale (cos - margin), those of the others scale cos (Liu
    et al.'s lib/metric.py:41-55): above 0 it drives classes apart and images of a class together, below 0 it lets them
    mix, and the features say more of other classes. gain: whether each class's cosine has a learned factor, as
    Baseline++'s has and negative margin's has not.
    """

    way: int
    scale: float
    epochs: int
    batch: int
    lr: float
    momentum: float
    dampening: float
    weight_decay: float
    margin: float = 0.0
    gain: bool = True

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True)

    def __post_init__(self) -> None:
        for key, value in {"scale": self.scale, "epochs": self.epochs, "batch": self.batch}.items():
            check_positive(f"algo.{key}", value)
        if not -2 < self.margin < 2:
            raise UserError(f"algo.margin={self.margin:g}: expected a difference of cosines, above -2 and below 2")
        self._sgd()

    def _sgd(self) -> SGD:
        return SGD(self.lr, self.momentum, self.dampening, self.weight_decay)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": Cosine(features, self.way, self.scale, self.gain)}

    def training_loss(self, loss: Loss) -> Loss:
        def with_margin(model: Model, batch: Batch) -> Tensor:
            def lowered(x: Tensor) -> Tensor:
                logits = model(x)
                own = members(batch.y, logits.shape[1])
                return torch.where(own, logits - self.scale * self.margin, logits)

            return loss(lowered, batch)

        return with_margin if self.margin else loss

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        yield fitted_cosines(learner, support, self.way, self.scale, self.epochs, self.batch, self._sgd(), self.gain)
