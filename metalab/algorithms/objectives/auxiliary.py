"""The objective of methods whose training adds a loss of their own, on an episode's features, to the queries'."""

from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from torch import Tensor

from metalab.algorithms.components.wrapped_learner import WrappedLearner
from metalab.algorithms.objectives.prediction import Prediction, evaluate_query
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Episode, Learner, Loss, TaskResult
from metalab.core.iteration import last


@runtime_checkable
class AuxiliaryAlgorithm(Algorithm, Protocol):
    """An algorithm with a loss beside that of the queries, in training alone."""

    auxiliary: float  # its weight, 0 or more

    def auxiliary_loss(self, learner: Learner, known: Tensor, y: Tensor, asked: Tensor, labels: Tensor) -> Tensor:
        """Return the loss [] before its weight.

        Args:
            learner: the net, for its parts.
            known: feature maps of the support [M,D,h,w].
            y: its labels [M].
            asked: feature maps of the queries [N,D,h,w].
            labels: theirs [N].
        """
        ...


@dataclass(frozen=True)
class AuxiliaryLoss:
    """The loss of the model on the query, plus algo.auxiliary times the algorithm's own loss; the former is shown.

    The latter is of the clean images, whatever a regularizer makes of the queries.
    """

    algorithm: Algorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __post_init__(self) -> None:
        if not isinstance(self.algorithm, AuxiliaryAlgorithm):
            raise UserError(
                "algo.objective=metalab.algorithms.objectives.AuxiliaryLoss takes an algorithm with a loss of its own "
                "(feat, frn); for other algorithms type algo.objective=metalab.algorithms.objectives.QueryLoss"
            )

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        has_loss, (support, query) = cast(AuxiliaryAlgorithm, self.algorithm), episode
        once: Learner = RememberedFeatures(learner, episode)
        more: Tensor | float = 0.0
        if has_loss.auxiliary:  # before the queries' loss, whose last pass may be without a graph
            known, asked = once.features(support.x), self.predict(once.features, support.x, query.x)
            more = has_loss.auxiliary * has_loss.auxiliary_loss(once, known, support.y, asked, query.y)
        model = last(has_loss.adapt(once, support, self.inner, self.steps))
        result = evaluate_query(lambda x: self.predict(model, support.x, x), query, self.outer)
        return result._replace(loss=result.loss + more)


class RememberedFeatures(WrappedLearner):
    """A learner that takes the feature maps of an episode's own images once, whoever asks for them."""

    def __init__(self, learner: Learner, episode: Episode) -> None:
        super().__init__(learner)
        self.images = (episode.support.x, episode.query.x)
        self.maps: dict[int, Tensor] = {}

    def features(self, x: Tensor) -> Tensor:
        place = next((i for i, image in enumerate(self.images) if x is image), None)
        if place is None:
            return self.learner.features(x)
        if place not in self.maps:
            self.maps[place] = self.learner.features(x)
        return self.maps[place]
