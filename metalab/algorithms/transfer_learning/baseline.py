"""Baseline: Chen, Liu, Kira, Wang, Huang 2019, sec. 3.2: a plain classifier, then a linear head a task."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from metalab.algorithms.components.heads import SGD, Head, fit_head, linear_head
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class Baseline:
    """Train body and a linear head on all training classes; for a task, learn a new head on the frozen features.

    The head starts at zero and walks through the support in the sampler's order;
    their code draws both. epochs, batch, lr, momentum, dampening, weight_decay: of the task's head.
    """

    way: int
    epochs: int
    batch: int
    lr: float
    momentum: float
    dampening: float
    weight_decay: float

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True)

    def __post_init__(self) -> None:
        check_positive("algo.epochs", self.epochs)
        check_positive("algo.batch", self.batch)
        self._sgd()

    def _sgd(self) -> SGD:
        return SGD(self.lr, self.momentum, self.dampening, self.weight_decay)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": linear_head(features, self.way)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        features = learner.features(support.x).flatten(1)
        start = {"weight": features.new_zeros(self.way, features.shape[1]), "bias": features.new_zeros(self.way)}
        head = fit_head(linear, start, features, support.y, self.epochs, self.batch, self._sgd())
        yield lambda x: linear(head, learner.features(x).flatten(1))


def linear(head: Head, features: Tensor) -> Tensor:
    """Return the logits [N,K] of features [N,D]."""
    return features @ head["weight"].T + head["bias"]
