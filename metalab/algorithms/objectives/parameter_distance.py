"""Reptile's objective: how far the adapted weights are from the start."""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from metalab.algorithms.objectives.prediction import Prediction, evaluate_query
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Episode, Learner, Loss, ObjectiveTraits, TaskResult


@dataclass(frozen=True)
class ParameterDistance:
    """1/2 |theta - phi|^2 with phi the adapted weights held constant: its gradient is Reptile's (algorithm 2).

    theta is what the task starts from: a head that is made for each task (algo.head_init) is not moved.
    """

    traits: ClassVar = ObjectiveTraits(learns_from_query=False, reads="support")  # the query is shown, nothing else

    algorithm: Algorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"algo.steps={self.steps}: without an inner step phi is theta, and nothing is learned")

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        first, *_, last = self.algorithm.adapt(learner, episode.support, self.inner, self.steps)
        start, final = cast(Learner, first), cast(Learner, last)
        own, theta, phi = learner.parameters(), start.parameters(), final.parameters()
        kept = [n for n in theta if theta[n] is own[n]]  # of a head made for the task nothing is
        with torch.no_grad():
            shown = evaluate_query(lambda x: self.predict(final, episode.support.x, x), episode.query, self.outer)
        distance = torch.stack([(theta[n] - phi[n].detach()).square().sum() for n in kept]).sum() / 2
        moved = {n: b.detach() for n, b in final.buffers().items() if n.startswith("moments.")}
        return shown._replace(loss=distance, state=moved)
