"""Penalties on the predictions: label smoothing, confidence and entropy."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from metalab.algorithms.objectives.losses import log_others
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Loss, Model
from metalab.regularizers.base import Hooks, identity_loss

Extra = Callable[[Tensor, Tensor], Tensor]  # logits [N,K], labels [N] -> what is added to the loss, a scalar


class CachedModel:
    """A model that has been asked about some images: it does not compute their logits again."""

    def __init__(self, model: Model, x: Tensor, logits: Tensor) -> None:
        self.model, self.x, self.logits = model, x, logits

    def __call__(self, x: Tensor) -> Tensor:
        return self.logits if x is self.x else self.model(x)

    def parameters(self) -> dict[str, Tensor]:
        """Return those of the model, which is a Learner where this is asked for."""
        return self.model.parameters()  # type: ignore[attr-defined]


def plus(extra: Extra) -> Callable[[Loss], Loss]:
    """Return what adds `extra` of the model's logits to a loss."""

    def wrap(loss: Loss) -> Loss:
        def value(model: Model, batch: Batch) -> Tensor:
            logits = model(batch.x)
            return loss(CachedModel(model, batch.x, logits), batch) + extra(logits, batch.y)

        return value

    return wrap


def extra_terms(extra: Extra, weight: float, inner: float) -> Hooks:
    """Return `weight` times extra on the loss of the query and `inner` times extra on that of each inner step."""
    return Hooks(
        inner=plus(lambda logits, y: inner * extra(logits, y)) if inner else identity_loss,
        outer=plus(lambda logits, y: weight * extra(logits, y)) if weight else identity_loss,
        query=bool(weight),
    )


def uniform_excess(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy to the uniform labels less that to the true ones."""
    log_p = logits.log_softmax(1)
    return log_p.gather(1, y[:, None]).mean() - log_p.mean()


def sureness(logits: Tensor, y: Tensor) -> Tensor:
    """Return -mean log p(1-p) over all predicted probabilities, which is least where each p is 1/2."""
    return -(logits.log_softmax(1) + log_others(logits)).mean()


def negative_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return mean sum_k p log p."""
    log_p = logits.log_softmax(1)
    return (log_p.exp() * log_p).sum(1).mean()


@dataclass(frozen=True)
class LabelSmoothing:
    """Give each class 1/way of a share of the label: (1 - s) label + s/way (Szegedy et al. 2016, sec. 7)."""

    weight: float  # s on the query
    inner: float  # s on the support, in the inner steps

    def __post_init__(self) -> None:
        if not (0 <= self.weight < 1 and 0 <= self.inner < 1):
            raise UserError(
                f"reg.label_smoothing has weight={self.weight:g}, inner={self.inner:g}; "
                "shares from 0 up to but not including 1 are expected"
            )

    def hooks(self) -> Hooks:
        return extra_terms(uniform_excess, self.weight, self.inner)._replace(smoothed=bool(self.weight or self.inner))


@dataclass(frozen=True)
class Confidence:
    """Penalize sure predictions by -weight mean log p(1-p) over the predicted probabilities p, least at p = 1/2.

    With the sign with which it is often printed, + log p(1-p), the loss falls without end as p goes to 0 or 1.
    """

    weight: float

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise UserError(f"reg.confidence.weight={self.weight:g}: below 0 the loss has no least value; 0 or more")

    def hooks(self) -> Hooks:
        return extra_terms(sureness, self.weight, 0.0)


@dataclass(frozen=True)
class Entropy:
    """Take weight times the entropy of the predictions off the loss (Pereyra et al. 2017, sec. 2).

    Above 0 sure predictions cost; below 0 unsure ones do (entropy minimisation, Grandvalet & Bengio 2005).
    """

    weight: float

    def hooks(self) -> Hooks:
        return extra_terms(negative_entropy, self.weight, 0.0)
