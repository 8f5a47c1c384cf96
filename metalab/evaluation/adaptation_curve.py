"""What pictures show of an episode, not for training."""

from dataclasses import dataclass

from torch import Tensor

from metalab.algorithms.objectives.prediction import Prediction, correct
from metalab.core.interfaces import Algorithm, Episode, Learner, Loss, TaskResult


@dataclass(frozen=True)
class AdaptationCurve:
    """What pictures show, not for training: query accuracy after 0, 1, ..., steps inner steps, the last predictions."""

    algorithm: Algorithm
    steps: int
    inner: Loss
    predict: Prediction

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        support, (x, y, _) = episode.support, episode.query
        models = self.algorithm.adapt(learner, support, self.inner, self.steps)
        logits = [self.predict(model, support.x, x) for model in models]
        shown = {f"accuracy/{i}": correct(each, y).float().mean() for i, each in enumerate(logits)}
        shown |= {"predicted": logits[-1].argmax(-1)}
        return TaskResult(x.new_zeros(()), correct(logits[-1], y), shown, {})
