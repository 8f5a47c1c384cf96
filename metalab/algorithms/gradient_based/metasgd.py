"""Meta-SGD: Li, Zhou, Chen, Li 2017, algorithm 1."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from metalab.algorithms.components.heads import HeadInit, of_class, start_head, task_head
from metalab.algorithms.components.inner_loop import adapted_parameter_names
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class MetaSGD:
    """Adapt all of the net by a step alpha * grad whose every element of alpha is meta-learned with theta (eq. 2).

    The rates start uniformly in lr_low..lr_high and may turn negative: they are not clamped. A learned head's rates
    have its shape, so the way of training is the way of the test; a head made for each task has one class's for all.
    """

    way: int
    lr_low: float
    lr_high: float
    first_order: bool
    head_init: HeadInit = "learned"
    neighbours: int = 5

    def __post_init__(self) -> None:
        if self.lr_low > self.lr_high:
            raise UserError(f"algo.lr_low={self.lr_low} is above algo.lr_high={self.lr_high}; swap them")

    @property
    def traits(self) -> AlgorithmTraits:
        return AlgorithmTraits(head_init=self.head_init, adapts_body=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        head = task_head(features, self.way, self.head_init, self.neighbours)
        adapts = of_class(nn.ModuleDict({"body": body, "head": head}), self.head_init)
        rates = {n.replace(".", "/"): nn.Parameter(self._start(p)) for n, p in adapts.items()}
        return {"head": head, "rates": nn.ParameterDict(rates)}

    def _start(self, like: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(like).uniform_(self.lr_low, self.lr_high)

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        names = adapted_parameter_names(learner)
        yield learner
        for _ in range(steps):
            gradient = learner.grad(lambda at: loss(at, support), names, self.first_order)
            theta = learner.parameters()
            rates = {n: theta["rates." + n.replace(".", "/")] for n in names}
            learner = learner.replace({n: theta[n] - rates[n] * gradient[n] for n in names})
            yield learner
