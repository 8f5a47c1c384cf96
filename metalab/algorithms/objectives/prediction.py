"""What objectives share: how a model predicts the queries, and how its predictions are judged."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.core.interfaces import Batch, Loss, Model, TaskResult
from metalab.models.layers import support_statistics

Prediction = Callable[[Model, Tensor, Tensor], Tensor]  # model, support images, images -> logits of the images


def cross_entropy(model: Model, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of the model on a batch."""
    return F.cross_entropy(model(batch.x), batch.y)


def predict_transductive(model: Model, support: Tensor, x: Tensor) -> Tensor:
    """Predict all images in one pass, normalized by their own statistics (transductive), or by stored ones."""
    return model(x)


def predict_with_support_statistics(model: Model, support: Tensor, x: Tensor) -> Tensor:
    """Predict with the batch-norm statistics of the support pass: no image leans on another query."""
    images = support.shape[0]  # not len, which torch.export would take for a number that never changes
    with support_statistics(images, images + x.shape[0]):
        return model(torch.cat([support, x]))[images:]


def predict_one_by_one(model: Model, support: Tensor, x: Tensor) -> Tensor:
    """Predict each image in a pass with the support alone (Reptile's non-transductive evaluation)."""
    return torch.cat([model(torch.cat([support, x[i : i + 1]]))[-1:] for i in range(len(x))])


PREDICTIONS: dict[str, Prediction] = {
    "batch": predict_transductive,
    "running": predict_transductive,
    "support": predict_with_support_statistics,
    "one": predict_one_by_one,
}


def evaluate_query(model: Model, query: Batch, loss: Loss) -> TaskResult:
    """Return the loss on the query and which clean query images are right, with one clean pass for both.

    A loss that asks for attacked images alone keeps no graph of the clean ones.
    """
    asked: list[Tensor] = []

    def once(x: Tensor) -> Tensor:
        if x is not query.x:
            return model(x)
        if not asked:
            asked.append(model(x))
        return asked[0]

    value = loss(once, query)
    with torch.no_grad():
        clean = asked[0] if asked else model(query.x)
    return TaskResult(value, correct(clean, query.y), {"loss": value}, {})


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """Return which images [N] are right by their logits [N,K]; what is not a number names no class."""
    return (logits.argmax(-1) == y) & logits.amax(-1).isfinite()
