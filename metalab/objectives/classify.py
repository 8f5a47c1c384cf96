"""The objective of transfer baselines: a plain classifier of all training classes, on mini-batches."""

from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor

from metalab.attacks.build import On
from metalab.errors import UserError
from metalab.interfaces import Algorithm, Episode, Learner, Loss, TaskResult
from metalab.objectives.judge import Prediction, by_support, judged


@dataclass(frozen=True)
class Classify:
    """The loss of the net as it is, body and head, on the query, which is the mini-batch; the support is empty."""

    READS: ClassVar[On] = "query"

    algorithm: Algorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __post_init__(self) -> None:
        if self.predict is by_support:
            raise UserError("train.bn=support: a mini-batch has no support; type train.bn=batch, or leave it null")

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        return judged(cast(Learner, learner), episode.query, self.outer)
