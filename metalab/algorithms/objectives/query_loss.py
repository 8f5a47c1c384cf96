"""The objective of most methods: the loss of the adapted model on the query."""

from dataclasses import dataclass

from torch import Tensor

from metalab.algorithms.objectives.prediction import Prediction, evaluate_query
from metalab.core.interfaces import Algorithm, Episode, Learner, Loss, TaskResult
from metalab.core.iteration import last


@dataclass(frozen=True)
class QueryLoss:
    """The loss of the model after the last inner step on the query (MAML, eq. 2; ProtoNet, algorithm 1)."""

    algorithm: Algorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        model = last(self.algorithm.adapt(learner, episode.support, self.inner, self.steps))
        return evaluate_query(lambda x: self.predict(model, episode.support.x, x), episode.query, self.outer)
