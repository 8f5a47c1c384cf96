"""Baseline++: Chen, Liu, Kira, Wang, Huang 2019, sec. 3.2: Baseline with cosine similarities as logits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means
from metalab.algorithms.components.heads import SGD, Head, fit_head
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


class Cosine(nn.Module):
    """Logits scale * gain_k * cos(w_k, f), with a learned gain a class, as their code's weight norm has it."""

    def __init__(self, features: int, way: int, scale: float) -> None:
        super().__init__()
        self.weight, self.gain, self.scale = (
            nn.Parameter(torch.randn(way, features)),
            nn.Parameter(torch.ones(way)),
            scale,
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * cosine({"weight": self.weight, "gain": self.gain}, features)


@dataclass(frozen=True)
class BaselinePP:
    """Train body and a cosine head on all training classes; for a task, learn a new one on the frozen features.

    The task's head starts at the class means, for a cosine has no zero to start at.
    epochs, batch, lr, momentum, dampening, weight_decay: of the task's head.
    """

    way: int
    scale: float
    epochs: int
    batch: int
    lr: float
    momentum: float
    dampening: float
    weight_decay: float

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True)

    def __post_init__(self) -> None:
        for key, value in {"scale": self.scale, "epochs": self.epochs, "batch": self.batch}.items():
            check_positive(f"algo.{key}", value)
        self._sgd()

    def _sgd(self) -> SGD:
        return SGD(self.lr, self.momentum, self.dampening, self.weight_decay)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": Cosine(features, self.way, self.scale)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        features = F.normalize(learner.features(support.x).flatten(1), dim=1)
        start = {"weight": class_means(features, support.y, self.way), "gain": features.new_ones(self.way)}

        def logits(head: Head, at: Tensor) -> Tensor:
            return self.scale * cosine(head, at)

        head = fit_head(logits, start, features, support.y, self.epochs, self.batch, self._sgd())
        yield lambda x: logits(head, learner.features(x).flatten(1))


def cosine(head: Head, features: Tensor) -> Tensor:
    """Return the gain times the cosine [N,K] of features [N,D] and each class's weight."""
    return head["gain"] * (F.normalize(features, dim=1) @ F.normalize(head["weight"], dim=1).T)
