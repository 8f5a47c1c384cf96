"""A loss of the inner steps whose parameters are meta-learned with the net, and kept for the test."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from metalab.algorithms.objectives.losses import targets
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Learner, Loss, Model
from metalab.regularizers.base import Hooks
from metalab.regularizers.output_penalties import CachedModel, negative_entropy, uniform_excess
from metalab.regularizers.weight_penalties import half_square

PART = "reg_loss"


@dataclass(frozen=True)
class LearnedLoss:
    """Descend, in the inner steps, a loss with parameters that the outer gradient learns; each is optional.

    The support's loss is taken of logits z' = (z - margin onehot(y)) / temperature, plus smoothing times (cross-entropy
    to the uniform labels less that to the true ones), entropy times the mean of sum_k p log p, and l2 / 2 |theta'|^2.
    It starts as the loss without them, for the temperature is the exponential of a parameter that starts at 0 and the
    others are 0; nothing bounds these. Learned losses of an inner loop: Bechtle et al., "Meta Learning via Learned
    Loss" (ICPR 2020), eq. 4; Baik et al., "Meta-Learning with Task-Adaptive Loss Function" (ICCV 2021), whose losses
    are small nets. The margin is that of Wang et al., "Additive Margin Softmax" (2018), eq. 5.
    """

    temperature: bool
    margin: bool
    smoothing: bool
    entropy: bool
    l2: bool

    def __post_init__(self) -> None:
        if not self._names():
            raise UserError("reg.learned_loss learns nothing as it is set: type reg.learned_loss.temperature=true")

    def _names(self) -> list[str]:
        chosen = {
            "log_temperature": self.temperature,
            "margin": self.margin,
            "smoothing": self.smoothing,
            "entropy": self.entropy,
            "l2": self.l2,
        }
        return [name for name, learned in chosen.items() if learned]

    def hooks(self) -> Hooks:
        def parts(features: int) -> dict[str, nn.Module]:
            return {PART: nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in self._names()})}

        return Hooks(inner=with_learned_terms, kept_parts=parts, query=True, learned_inner="reg.learned_loss")


def with_learned_terms(loss: Loss) -> Loss:
    """Return the loss as the learner's own parameters of it, under the name of PART, make it."""

    def value(model: Model, batch: Batch) -> Tensor:
        parameters = cast(Learner, model).parameters()
        learned = {n.removeprefix(f"{PART}."): p for n, p in parameters.items() if n.startswith(f"{PART}.")}
        logits = rescaled(model(batch.x), batch.y, learned)
        whole = loss(CachedModel(model, batch.x, logits), batch)
        if "smoothing" in learned:
            whole = whole + learned["smoothing"] * uniform_excess(logits, batch.y)
        if "entropy" in learned:
            whole = whole + learned["entropy"] * negative_entropy(logits, batch.y)
        if "l2" in learned:
            whole = whole + learned["l2"] * half_square(parameters)
        return whole

    return value


def rescaled(logits: Tensor, y: Tensor, learned: Mapping[str, Tensor]) -> Tensor:
    """Return the logits [N,K] less the learned margin of the true class, over the learned temperature."""
    if "margin" in learned:
        logits = logits - learned["margin"] * targets(logits, y)
    return logits / learned["log_temperature"].exp() if "log_temperature" in learned else logits
