"""The objective of an autoencoder, on mini-batches."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from metalab.algorithms.objectives.prediction import Prediction, predict_with_support_statistics
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Episode, Learner, Loss, ObjectiveTraits, TaskResult


@dataclass(frozen=True)
class ReconstructionLoss:
    """The mean squared error of the images that part `decoder` makes of the features of the query, the mini-batch.

    An image counts as right where it is given back better than by the mean image of the mini-batch.
    """

    traits: ClassVar = ObjectiveTraits(
        learns_from_query=False, reads="query"
    )  # from images, whose classes do not count

    algorithm: Algorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __post_init__(self) -> None:
        if self.predict is predict_with_support_statistics:
            raise UserError("train.bn=support: a mini-batch has no support; type train.bn=batch, or leave it null")

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        x = episode.query.x
        made = learner.part("decoder", learner.features(x).flatten(1), x)
        loss = F.mse_loss(made, x)
        ours, trivial = ((image - x).square().flatten(1).mean(1) for image in (made, x.mean(0)))
        return TaskResult(loss, ours < trivial, {"loss": loss}, {})
