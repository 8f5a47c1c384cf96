"""Attacks on the support: one poisoned support for all queries of its task."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metalab.algorithms.objectives.inner_gradient import with_gradient
from metalab.algorithms.objectives.prediction import Prediction, correct
from metalab.attacks.base import Attack, mean_over_queries
from metalab.core.interfaces import Algorithm, Batch, Episode, Learner, Loss, Model
from metalab.core.iteration import last

Tried = Iterator[tuple[Tensor, Tensor | None]]  # a support's images, and the queries' logits where they are known


def exact(
    learner: Learner, loss: Callable[[Learner], Tensor], names: list[str] | None, first_order: bool
) -> dict[str, Tensor]:
    """Return the inner gradient differentiated, whatever the algorithm treats as a constant (first_order).

    Of a first-order method the adapted weights would be constants to an attack on the support, which were then blind.
    """
    return learner.grad(loss, names)


@dataclass(frozen=True)
class SupportAttack:
    """How a task is adapted and predicts, for an attack on its support.

    through_adapt: the attack climbs the loss of the queries as a function of the support's images, differentiated
    through all of adapt: the inner steps' second derivatives too, the statistics of batch norm too. Else a surrogate:
    the loss of the support's own images, each with its label, under the model before the first inner step (for a
    metric method: the one made from the clean support).
    """

    algorithm: Algorithm
    steps: int
    inner: Loss
    predict: Prediction
    through_adapt: bool

    def adapted(self, learner: Learner, support: Batch) -> Model:
        model = last(self.algorithm.adapt(learner, support, self.inner, self.steps))
        return model

    def answers(self, learner: Learner, episode: Episode) -> Model:
        """Return images of the support -> logits of the queries, which may be differentiated."""
        support, whole = episode.support, with_gradient(learner, exact)

        def model(x: Tensor) -> Tensor:
            return self.predict(self.adapted(whole, support._replace(x=x)), x, episode.query.x)

        return model

    def worst(
        self, learner: Learner, episode: Episode, clean: Tensor, attack: Attack, dead: list[Tensor]
    ) -> tuple[Batch, Tensor]:
        """Return the support that leaves the fewest queries right, and which [N] these are, for all queries the same.

        It is the clean one or any that the attack tried, of equals the last; clean: which are right at the clean one.
        The images whose gradient was 0 are added to `dead`, bool.
        """
        answers, (x, *_), y = self.answers(learner, episode), episode.support, episode.query.y
        still = clean
        for tried, logits in self._tries(learner, episode, answers, attack, dead):
            now = correct(answers(tried) if logits is None else logits, y)
            fewer = now.sum() <= still.sum()
            x, still = torch.where(fewer, tried, x), torch.where(fewer, now, still)
        return episode.support._replace(x=x), still

    def _tries(self, learner: Learner, episode: Episode, answers: Model, attack: Attack, dead: list[Tensor]) -> Tried:
        support, query = episode
        if self.through_adapt:
            tries = attack.iterates(answers, support.x, query.y, mean_over_queries(len(support.x)))
        else:
            first = next(iter(self.algorithm.adapt(learner, support, self.inner, self.steps)))
            tries = attack.iterates(first, support.x, support.y)
        for tried in tries:
            dead += [] if tried.dead is None else [tried.dead]
            if tried.x is not support.x:  # a climb may begin there
                yield tried.x, tried.logits if self.through_adapt else None
