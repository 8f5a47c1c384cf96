"""ADML, adversarial meta-learning: Yin, Tang, Xu, Wang 2018, algorithm 1."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from metalab.core.interfaces import Episode, Learner, Objective, TaskResult


@dataclass(frozen=True)
class ADMLObjective:
    """1/2 [L(adapted on attacked support; clean query) + L(adapted on clean support; attacked query)].

    clean: the objective on clean queries; attack_support: changes an episode; attacked: the objective on attacked
    queries, whose predictions on the clean ones are what is shown. Attacking both at once is another thing.
    """

    clean: Objective
    attack_support: Callable[[Learner, Episode], Episode]
    attacked: Objective

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        one = self.clean(learner, self.attack_support(learner, episode), progress)
        two = self.attacked(learner, episode, progress)
        loss = (one.loss + two.loss) / 2
        return two._replace(loss=loss, scalars=two.scalars | {"loss": loss})
