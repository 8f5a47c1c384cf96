"""The objective of Siamese networks: each query with each support image, one class or two."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast, runtime_checkable

from torch import Tensor

from metalab.algorithms.components.distances import best_of_class
from metalab.algorithms.objectives.prediction import Prediction, correct, cross_entropy
from metalab.core.errors import UserError
from metalab.core.interfaces import Episode, Learner, Loss, ObjectiveTraits, TaskResult


@runtime_checkable
class PairAlgorithm(Protocol):
    @property
    def way(self) -> int: ...
    def pair_scores(self, learner: Learner, a: Tensor, b: Tensor) -> Tensor: ...  # embeddings [N,D], [M,D] -> [N,M]
    def pair_loss(self) -> Callable[[Tensor, Tensor], Tensor]: ...  # scores, which are of one class -> loss


@dataclass(frozen=True)
class PairwiseLoss:
    """The algorithm's pair loss over all pairs of a query and a support image."""

    traits: ClassVar = ObjectiveTraits(learns_from_query=False)  # from pairs, whose loss no regularizer of classes fits

    algorithm: PairAlgorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __post_init__(self) -> None:
        if not isinstance(cast(object, self.algorithm), PairAlgorithm):  # each was chosen by its own name
            raise UserError(
                f"algo.objective=PairwiseLoss takes an algorithm that compares pairs (siamese), not {self.algorithm}"
            )
        if self.outer is not cross_entropy:
            raise UserError(
                "algo=siamese is trained by a loss on pairs, and one of reg works on the cross-entropy of classes; "
                "leave it out of reg"
            )

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        support, query = episode
        known = learner.features(support.x).flatten(1)
        embedded = self.predict(lambda x: learner.features(x).flatten(1), support.x, query.x)
        scores = self.algorithm.pair_scores(learner, embedded, known)
        loss = self.algorithm.pair_loss()(scores, query.y[:, None] == support.y)
        nearest = best_of_class(scores, support.y, self.algorithm.way)
        return TaskResult(loss, correct(nearest, query.y), {"loss": loss}, {})
