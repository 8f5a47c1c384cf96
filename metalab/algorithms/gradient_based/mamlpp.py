"""MAML++: Antoniou, Edwards, Storkey 2019, sec. 4."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from metalab.algorithms.components.heads import HeadInit, start_head, task_head
from metalab.algorithms.components.inner_loop import adapted_parameter_names, without_norms
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class MAMLPP:
    """Adapt all of the net by steps whose learning rates are meta-learned, one a tensor and step (LSLR).

    lr: where the rates start. rate_steps: steps with rates of their own; later ones use the last. multi_step_share:
    share of training over which the loss after every step counts, less and less (MSL). first_order_share: share of
    training, from its start, whose inner gradients are constants (DA). Both shares are the objective's
    (objectives/multi_step.py); the cosine schedule is optim's. The paper's batch norm a step is left out.
    adapt_norm: whether the gains and shifts of batch norm are adapted too; not in the paper's experiments.
    """

    way: int
    lr: float
    rate_steps: int
    multi_step_share: float
    first_order_share: float
    head_init: HeadInit = "learned"
    neighbours: int = 5
    adapt_norm: bool = True

    def __post_init__(self) -> None:
        check_positive("algo.lr", self.lr)
        check_positive("algo.rate_steps", self.rate_steps)
        for key, share in {"multi_step": self.multi_step_share, "first_order": self.first_order_share}.items():
            if not 0 <= share <= 1:
                raise UserError(f"algo.{key}_share={share:g}: expected a share of training, 0 to 1")

    @property
    def traits(self) -> AlgorithmTraits:
        return AlgorithmTraits(head_init=self.head_init, adapts_body=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        head = task_head(features, self.way, self.head_init, self.neighbours)
        adapts = nn.ModuleDict({"body": body, "head": head})
        named = {n: p for n, p in adapts.named_parameters() if p.requires_grad}
        names = list(named) if self.adapt_norm else without_norms(named)
        rates = {n.replace(".", "/"): torch.full((self.rate_steps,), self.lr) for n in names}
        return {"head": head, "rates": nn.ParameterDict(rates)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        names = adapted_parameter_names(learner, norms=self.adapt_norm)
        yield learner
        for step in range(steps):
            gradient, theta = learner.grad(lambda at: loss(at, support), names), learner.parameters()
            rates = {n: theta["rates." + n.replace(".", "/")][min(step, self.rate_steps - 1)] for n in names}
            learner = learner.replace({n: theta[n] - rates[n] * gradient[n] for n in names})
            yield learner
