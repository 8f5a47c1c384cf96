"""BOIL, body only update in the inner loop: Oh, Yoo, Kim, Yun 2021, sec. 3.1."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from metalab.errors import UserError
from metalab.ingredients.descent import Descent, Inner
from metalab.ingredients.heads import HeadInit, start_head, task_head
from metalab.ingredients.inner import adapted, descend, positive
from metalab.interfaces import Batch, Learner, Loss, Model


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
        positive("algo.lr", self.lr)
        if self.head_init == "zero":
            raise UserError("algo=boil with algo.head_init=zero: a zero head that stays gives the body no gradient")

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": task_head(features, self.way, self.head_init, self.neighbours, self.head_std)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        names = adapted(learner, ("body.",), self.adapt_norm)
        how = Descent(self.inner, self.lr)
        yield learner
        for _ in range(steps):
            learner, how = descend(learner, support, loss, how, names, self.first_order)
            yield learner
