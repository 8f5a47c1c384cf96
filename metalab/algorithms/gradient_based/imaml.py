"""iMAML: Rajeswaran, Finn, Kakade, Levine 2019, algorithms 1 and 2, the variant with gradient descent."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from metalab.algorithms.components.heads import HeadInit, start_head, task_head
from metalab.algorithms.components.inner_loop import adapted_parameter_names
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class IMAML:
    """Adapt all of the net by gradient descent on L(phi) + lam/2 |phi - theta|^2 (eq. 3), the pull in every step.

    The meta-gradient is that of objectives/implicit_gradient.py: no step of the path is differentiated.
    cg_steps, cg_damping: the conjugate gradient's, the paper's damping is 0. lr: a step of lr * lam above 2 diverges.
    """

    way: int
    lr: float
    lam: float
    cg_steps: int
    cg_damping: float
    head_init: HeadInit = "learned"
    neighbours: int = 5

    def __post_init__(self) -> None:
        check_positive("algo.lr", self.lr)
        check_positive("algo.lam", self.lam)
        check_positive("algo.cg_steps", self.cg_steps)
        if self.cg_damping < 0:
            raise UserError(f"algo.cg_damping={self.cg_damping:g}: expected 0 or more")
        if self.lr * self.lam >= 2:
            raise UserError(
                f"algo.lr={self.lr:g} times algo.lam={self.lam:g} is 2 or more: the pull towards theta would throw phi "
                f"further away at every step; give algo.lr below {2 / self.lam:g}"
            )

    @property
    def traits(self) -> AlgorithmTraits:
        return AlgorithmTraits(head_init=self.head_init, adapts_body=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": task_head(features, self.way, self.head_init, self.neighbours)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        names, theta = adapted_parameter_names(learner), learner.parameters()
        yield learner
        for _ in range(steps):
            gradient = learner.grad(lambda at: loss(at, support), names, first_order=True)
            phi = learner.parameters()
            pulled = {n: gradient[n] + self.lam * (phi[n] - theta[n]) for n in names}
            learner = learner.replace({n: phi[n] - self.lr * pulled[n] for n in names})
            yield learner
