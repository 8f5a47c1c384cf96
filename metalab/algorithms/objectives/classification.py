"""The objective of transfer baselines: a plain classifier of all training classes, on mini-batches."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from metalab.algorithms.objectives.prediction import Prediction, evaluate_query, predict_with_support_statistics
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Episode, Learner, Loss, ObjectiveTraits, TaskResult


@dataclass(frozen=True)
class ClassificationLoss:
    """The loss of the net as it is, body and head, on the query, which is the mini-batch; the support is empty."""

    traits: ClassVar = ObjectiveTraits(reads="query", classifies=True)

    algorithm: Algorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __post_init__(self) -> None:
        if self.predict is predict_with_support_statistics:
            raise UserError("train.bn=support: a mini-batch has no support; type train.bn=batch, or leave it null")

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        return evaluate_query(learner, episode.query, self.outer)
