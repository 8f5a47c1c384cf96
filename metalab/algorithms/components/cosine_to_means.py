"""A learner that classifies by the cosine to the mean feature of each class's support."""

from torch import Tensor

from metalab.algorithms.components.distances import class_means, cosines
from metalab.algorithms.components.wrapped_learner import WrappedLearner
from metalab.core.interfaces import Batch, Learner


class CosineToMeans(WrappedLearner):
    """All is the learner's own, its weights too, but the logits [N,K]: cosines divided by a temperature."""

    def __init__(self, learner: Learner, support: Batch, way: int, temperature: Tensor | float) -> None:
        super().__init__(learner)
        self.means = class_means(learner.features(support.x).flatten(1), support.y, way)
        self.temperature = temperature

    def __call__(self, x: Tensor) -> Tensor:
        return cosines(self.features(x).flatten(1), self.means) / self.temperature
