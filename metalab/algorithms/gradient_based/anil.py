"""ANIL, almost no inner loop: Raghu et al. 2020, sec. 4.1."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from metalab.algorithms.components.heads import HeadInit, start_head, task_head
from metalab.algorithms.components.inner_loop import adapted_heads
from metalab.algorithms.components.inner_optimizers import Inner, InnerOptimizer
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class ANIL:
    """Adapt the head alone by gradient descent on the support; the outer loop trains body and head.

    The support passes through the body once a task, whatever the number of steps. adapt_norm changes nothing here, for
    the norms are the body's.
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

    @property
    def traits(self) -> AlgorithmTraits:
        return AlgorithmTraits(head_init=self.head_init, frozen_body=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": task_head(features, self.way, self.head_init, self.neighbours, self.head_std)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        yield from adapted_heads(learner, support, loss, steps, InnerOptimizer(self.inner, self.lr), self.first_order)
