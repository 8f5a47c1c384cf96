"""Alpha-TIM: Veilleux, Boudiaf, Piantanida, Ben Ayed 2021: TIM for queries whose classes are not equally many."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means, members
from metalab.algorithms.components.feature_transform import transformed
from metalab.algorithms.components.heads import linear_head
from metalab.algorithms.components.information_maximization import (
    LossWeights,
    Task,
    class_logits,
    descend,
    information_gradient,
)
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class AlphaTIM:
    """TIM by gradient descent with alpha-entropies of the queries' predictions in the place of Shannon's (eq. 8).

    A higher alpha punishes unequal shares of the classes less. alpha: None: 2 with one support image a class, 7 with 5
    or more, 5 between. The other settings are TIM's.
    """

    way: int
    alpha: float | None
    iterations: int
    lr: float
    temperature: float
    cross_entropy: float
    marginal: float
    conditional: float

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True, transductive=True)

    def __post_init__(self) -> None:
        for key in ("iterations", "lr", "temperature", "cross_entropy"):
            check_positive(f"algo.{key}", getattr(self, key))
        if min(self.marginal, self.conditional) < 0:
            raise UserError(
                f"algo.marginal={self.marginal:g}, algo.conditional={self.conditional:g}: expected 0 or more"
            )
        if self.alpha is not None and not self.alpha > 0:
            raise UserError(f"algo.alpha={self.alpha:g}: expected a number above 0, 1 for Shannon's entropy, or null")

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": linear_head(features, self.way)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        known = transformed(learner, support.x, "l2n")
        first, onto = class_means(known, support.y, self.way), members(support.y, self.way).to(known.dtype)
        by = LossWeights(self.cross_entropy, self.marginal, self.conditional)
        shots = support.y.shape[0] / self.way
        alpha = self.alpha or (2.0 if shots <= 1 else 7.0 if shots >= 5 else 5.0)

        def model(x: Tensor) -> Tensor:
            task = Task(known, onto, transformed(learner, x, "l2n"))
            slope = partial(information_gradient, task=task, temperature=self.temperature, by=by, alpha=alpha)
            return class_logits(descend(slope, first, self.lr, self.iterations), task.asked, self.temperature)

        yield model
