"""From adapted models to a loss, what was right, and what people are shown: the only training losses.

Every objective is a dataclass with __call__(learner, episode, progress) -> TaskResult.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.errors import UserError
from metalab.interfaces import Algorithm, Batch, Episode, Learner, Loss, Model, TaskResult
from metalab.models.layers import statistics_of_first

Prediction = Callable[[Model, Tensor, Tensor], Tensor]  # model, support images, images -> logits of the images


def cross_entropy(model: Model, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of the model on a batch."""
    return F.cross_entropy(model(batch.x), batch.y)


def together(model: Model, support: Tensor, x: Tensor) -> Tensor:
    """Predict all images in one pass, normalised by their own statistics (transductive), or by stored ones."""
    return model(x)


def by_support(model: Model, support: Tensor, x: Tensor) -> Tensor:
    """Predict with the batch-norm statistics of the support pass: no image leans on another query."""
    with statistics_of_first(len(support)):
        return model(torch.cat([support, x]))[len(support) :]


def one_by_one(model: Model, support: Tensor, x: Tensor) -> Tensor:
    """Predict each image in a pass with the support alone (Reptile's non-transductive evaluation)."""
    return torch.cat([model(torch.cat([support, x[i : i + 1]]))[-1:] for i in range(len(x))])


PREDICTIONS: dict[str, Prediction] = {
    "batch": together,
    "running": together,
    "support": by_support,
    "one": one_by_one,
}


@dataclass(frozen=True)
class QueryLoss:
    """The loss of the model after the last inner step on the query (MAML, eq. 2; ProtoNet, algorithm 1)."""

    algorithm: Algorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        *_, model = self.algorithm.adapt(learner, episode.support, self.inner, self.steps)
        return judged(lambda x: self.predict(model, episode.support.x, x), episode.query, self.outer)


@dataclass(frozen=True)
class ParameterDistance:
    """1/2 |theta - phi|^2 with phi the adapted weights held constant: its gradient is Reptile's (algorithm 2)."""

    algorithm: Algorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"algo.steps={self.steps}: without an inner step phi is theta, and nothing is learned")

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        *_, model = self.algorithm.adapt(learner, episode.support, self.inner, self.steps)
        final = cast(Learner, model)
        theta, phi = learner.parameters(), final.parameters()
        with torch.no_grad():
            shown = judged(lambda x: self.predict(final, episode.support.x, x), episode.query, self.outer)
        distance = torch.stack([(theta[n] - phi[n].detach()).square().sum() for n in theta]).sum() / 2
        moved = {n: b.detach() for n, b in final.buffers().items() if n.startswith("moments.")}
        return shown._replace(loss=distance, state=moved)


@dataclass(frozen=True)
class Curve:
    """What pictures show, not for training: query accuracy after 0, 1, ..., steps inner steps, the last predictions."""

    algorithm: Algorithm
    steps: int
    inner: Loss
    predict: Prediction

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        support, (x, y, _) = episode.support, episode.query
        models = self.algorithm.adapt(learner, support, self.inner, self.steps)
        predicted = [self.predict(model, support.x, x).argmax(-1) for model in models]
        shown = {f"accuracy/{i}": (p == y).float().mean() for i, p in enumerate(predicted)}
        return TaskResult(x.new_zeros(()), predicted[-1] == y, shown | {"predicted": predicted[-1]}, {})


def judged(model: Model, query: Batch, loss: Loss) -> TaskResult:
    """Return the loss on the query and which clean query images are right, with one clean pass for both."""
    clean = model(query.x)
    value = loss(lambda x: clean if x is query.x else model(x), query)
    return TaskResult(value, clean.argmax(-1) == query.y, {"loss": value}, {})
