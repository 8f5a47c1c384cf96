"""Fine-tuning: a plain classifier, then gradient descent on the support, over all of the net or its last layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from metalab.algorithms.components.heads import linear_head, start_head
from metalab.algorithms.components.inner_loop import adapted_parameter_names, inner_step
from metalab.algorithms.components.inner_optimizers import Inner, InnerOptimizer
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class Finetune:
    """Train body and head on all training classes; for a task, start a new head and descend the support's loss.

    layers: how many of the body's last convolutions and linear layers, with the norms behind them, follow the head
    (Dhillon et al. 2020 fine-tune all, sec. 3.1; Yosinski et al. 2014 the last n); null: all; 0: the head alone.
    pseudo: once half of the steps are taken, the loss of the unlabelled images (task.unlabelled) counts so much, each
    with the class that the model sees in it at that step (pseudo-labels, Lee 2013, eq. 15 with a step for its ramp).
    """

    way: int
    lr: float
    layers: int | None
    head_init: Literal["zero", "random", "prototype"]
    inner: Inner = "sgd"
    pseudo: float = 0.0

    def __post_init__(self) -> None:
        check_positive("algo.lr", self.lr)
        if self.layers is not None and self.layers < 0:
            raise UserError(f"algo.layers={self.layers}: expected 0 or more of the body's layers, or null for all")
        if self.pseudo < 0:
            raise UserError(f"algo.pseudo={self.pseudo:g}: expected 0 or more")

    @property
    def traits(self) -> AlgorithmTraits:
        unlabelled = "needed" if self.pseudo > 0 else "ignored"
        return AlgorithmTraits(
            head_init=self.head_init, unlabelled=unlabelled, without_training={}, frozen_body=self.layers == 0
        )

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": linear_head(features, self.way)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        names = [*self._last(learner), *adapted_parameter_names(learner, ("head.",))]
        how = InnerOptimizer(self.inner, self.lr)
        yield learner

        def with_unlabelled(model: Model, batch: Batch) -> Tensor:
            seen = batch._replace(x=batch.unlabelled, y=model(batch.unlabelled).argmax(1))
            return loss(model, batch) + self.pseudo * loss(model, seen)

        for step in range(steps):
            more = self.pseudo > 0 and 2 * step >= steps and support.unlabelled.shape[0]
            learner, how = inner_step(learner, support, with_unlabelled if more else loss, how, names, first_order=True)
            yield learner

    def _last(self, learner: Learner) -> list[str]:
        body = adapted_parameter_names(learner, ("body.",))
        weights = [i for i, n in enumerate(body) if learner.parameters()[n].dim() > 1]  # norms and biases have vectors
        if self.layers is None or self.layers >= len(weights):
            return body
        return body[weights[-self.layers] :] if self.layers else []
