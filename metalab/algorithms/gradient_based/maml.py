"""MAML: Finn, Abbeel, Levine 2017, algorithm 2; first-order MAML: sec. 5.2 there and Nichol et al. 2018, sec. 3."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from metalab.algorithms.components.heads import HeadInit, start_head, task_head
from metalab.algorithms.components.inner_loop import adapted_parameter_names, inner_step
from metalab.algorithms.components.inner_optimizers import Inner, InnerOptimizer
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


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
        check_positive("algo.lr", self.lr)

    @property
    def traits(self) -> AlgorithmTraits:
        return AlgorithmTraits(head_init=self.head_init, adapts_body=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": task_head(features, self.way, self.head_init, self.neighbours, self.head_std)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        names = adapted_parameter_names(learner, norms=self.adapt_norm)
        how = InnerOptimizer(self.inner, self.lr)
        yield learner
        for _ in range(steps):
            learner, how = inner_step(learner, support, loss, how, names, self.first_order)
            yield learner
