"""MAML: Finn, Abbeel, Levine 2017, algorithm 2; first-order MAML: sec. 5.2 there and Nichol et al. 2018, sec. 3."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from metalab.ingredients.descent import Descent, Inner
from metalab.ingredients.heads import HeadInit, start_head, task_head
from metalab.ingredients.inner import adapted, descend, positive
from metalab.interfaces import Batch, Learner, Loss, Model


@dataclass(frozen=True)
class MAML:
    """Adapt all of the net by gradient descent on the support.

    adapt_norm: whether the gains and shifts of batch norm are adapted too, as learn2learn does; the paper's code leaves
    them out (cbfinn/maml: maml.py:90), has no gains, and adds 1e-3 to the variances, where 1e-5 is added here.
    first_order: treat the inner gradients as constants of the outer loop (FOMAML).
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

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": task_head(features, self.way, self.head_init, self.neighbours, self.head_std)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        names = adapted(learner, norms=self.adapt_norm)
        how = Descent(self.inner, self.lr)
        yield learner
        for _ in range(steps):
            learner, how = descend(learner, support, loss, how, names, self.first_order)
            yield learner
