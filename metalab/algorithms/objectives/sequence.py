"""The objective of memory networks: every image of a sequence is named, its label is told with the next."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, cast, runtime_checkable

from torch import Tensor

from metalab.algorithms.objectives.prediction import Prediction, evaluate_query, predict_with_support_statistics
from metalab.core.errors import UserError
from metalab.core.interfaces import Episode, Learner, Loss, ObjectiveTraits, TaskResult

SHOWN = (1, 2, 5, 10)  # the presentations of a class that papers report; the 2nd is one-shot


@runtime_checkable
class SequenceAlgorithm(Protocol):
    @property
    def way(self) -> int: ...
    def answers(self, learner: Learner, x: Tensor, y: Tensor) -> Tensor: ...  # images and labels in order -> logits


@dataclass(frozen=True)
class SequenceLoss:
    """The loss on each image of the shuffled support, a sequence of way x shot presentations (Santoro et al. 2016).

    scalars presentations/n: the accuracy on the n-th image of each class: n - 1 of its labels were told before. The
    query is not used: batch norm sees the whole sequence at once.
    """

    traits: ClassVar = ObjectiveTraits(reads="support")

    algorithm: SequenceAlgorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __post_init__(self) -> None:
        if not isinstance(cast(object, self.algorithm), SequenceAlgorithm):  # each was chosen by its own name
            raise UserError(
                f"the objective SequenceLoss takes an algorithm that reads sequences (mann), not {self.algorithm}"
            )
        if self.predict is predict_with_support_statistics:
            raise UserError("train.bn=support: a sequence has no queries; type train.bn=batch, or leave it null")

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        support = episode.support
        result = evaluate_query(lambda x: self.algorithm.answers(learner, x, support.y), support, self.outer)
        before = (support.y[:, None] == support.y).tril(-1).sum(1)  # of the same class
        shots = support.y.shape[0] // self.algorithm.way
        shown = {
            f"presentations/{n}": (result.correct & (before == n - 1)).sum() / self.algorithm.way
            for n in SHOWN
            if n <= shots
        }
        return result._replace(scalars=result.scalars | shown)
