"""BOIL, body only update in the inner loop: Oh, Yoo, Kim, Yun 2021, sec. 3.1."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from metalab.algorithms.components.heads import HeadInit, start_head, task_head
from metalab.algorithms.components.inner_loop import adapted_parameter_names, inner_step
from metalab.algorithms.components.inner_optimizers import Inner, InnerOptimizer
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class BOIL:
    """Adapt the body alone by gradient descent on the support; the outer loop trains body and head.

    adapt_norm: whether the gains and shifts of batch norm are adapted too.
    """

    way: int
    lr: float
    first_order: bool
    head_init: HeadInit
    inner: Inner = "sgd"
    neighbours: int = 5
    head_std: float | None = None
    adapt_norm: bool = True

    def __post_init__(self) -> None:
        check_positive("algo.lr", self.lr)
        if self.head_init == "zero":
            raise UserError("algo=boil with algo.head_init=zero: a zero head that stays gives the body no gradient")

    @property
    def traits(self) -> AlgorithmTraits:
        return AlgorithmTraits(head_init=self.head_init, adapts_body=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": task_head(features, self.way, self.head_init, self.neighbours, self.head_std)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        names = adapted_parameter_names(learner, ("body.",), self.adapt_norm)
        how = InnerOptimizer(self.inner, self.lr)
        yield learner
        for _ in range(steps):
            learner, how = inner_step(learner, support, loss, how, names, self.first_order)
            yield learner
