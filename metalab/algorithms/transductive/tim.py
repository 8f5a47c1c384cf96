"""TIM: Boudiaf, Masud, Rony, Dolz, Piantanida, Ben Ayed 2020: transductive information maximization."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means, members
from metalab.algorithms.components.feature_transform import transformed
from metalab.algorithms.components.heads import linear_head
from metalab.algorithms.components.information_maximization import (
    LossWeights,
    Task,
    alternate,
    class_logits,
    descend,
    information_gradient,
)
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class TIM:
    """Train a plain classifier; for a task, class weights of least cross-entropy and most mutual information (eq. 4).

    solver: gd, steps of Adam at rate lr; adm, alternating updates in closed form, which have no rate. iterations: of
    it; None: 1000 of gd, 150 of adm. temperature: squared distances of unit features are multiplied by half of it.
    cross_entropy, marginal, conditional: weights of the loss's terms.
    """

    way: int
    solver: Literal["gd", "adm"]
    iterations: int | None
    lr: float
    temperature: float
    cross_entropy: float
    marginal: float
    conditional: float

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True, transductive=True)

    def __post_init__(self) -> None:
        for key in ("lr", "temperature", "cross_entropy"):
            check_positive(f"algo.{key}", getattr(self, key))
        if min(self.marginal, self.conditional) < 0 or (self.iterations is not None and self.iterations < 1):
            raise UserError(
                f"algo.marginal={self.marginal:g}, algo.conditional={self.conditional:g}, algo.iterations="
                f"{self.iterations}: expected weights of 0 or more, and 1 iteration or more, or null"
            )

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": linear_head(features, self.way)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        known = transformed(learner, support.x, "l2n")
        first, onto = class_means(known, support.y, self.way), members(support.y, self.way).to(known.dtype)
        by = LossWeights(self.cross_entropy, self.marginal, self.conditional)
        times = self.iterations or {"gd": 1000, "adm": 150}[self.solver]

        def model(x: Tensor) -> Tensor:
            task = Task(known, onto, transformed(learner, x, "l2n"))
            if self.solver == "adm":
                weights = alternate(first, task, self.temperature, by, times)
            else:
                slope = partial(information_gradient, task=task, temperature=self.temperature, by=by, alpha=1)
                weights = descend(slope, first, self.lr, times)
            return class_logits(weights, task.asked, self.temperature)

        yield model
