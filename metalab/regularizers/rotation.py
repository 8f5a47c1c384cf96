"""Rotation as self-supervision: Gidaris, Singh, Komodakis 2018; beside few-shot learning Gidaris et al. 2019."""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.objectives.auxiliary import AuxiliaryLoss
from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode, Learner, Objective, TaskResult
from metalab.regularizers.base import AGAIN, Hooks, ObjectiveContext, ObjectiveFactory

PART = "reg_rotation"  # the name of the classifier of turns in the net


@dataclass(frozen=True)
class Rotation:
    """Learn by how many quarter turns queries (of training on mini-batches: the images) were turned, from features.

    Added is weight x (cross-entropy of a linear classifier of the four turns), on four copies of a share of the
    queries, and classes x (the cross-entropy of their own classes, as turned): 1 and 0 are Gidaris et al. 2019, 0.5 and
    0.5 on a quarter of the images S2M2's (Mangla et al. 2020; their train.py:163-191). The classes' loss is the plain
    one, without what an algorithm or other regularizers add to it. Where a turned image is of
    another class, as characters are, it harms; where images come in any position there is nothing to learn.
    """

    weight: float
    classes: float
    share: float

    def __post_init__(self) -> None:
        for key, value in {"weight": self.weight, "classes": self.classes}.items():
            if value < 0:
                raise UserError(f"reg.rotation.{key}={value:g}: expected 0 or more")
        if not 0 < self.share <= 1:
            raise UserError(f"reg.rotation.share={self.share:g}: expected a share of the images, above 0 up to 1")

    def hooks(self) -> Hooks:
        def wrap_objective(make: ObjectiveFactory, setting: ObjectiveContext) -> ObjectiveFactory:
            return lambda outer: RotationTerm(make(outer), _of_queries_alone(make(cross_entropy)), self)

        def parts(features: int) -> dict[str, nn.Module]:
            return {PART: nn.Linear(features, 4)} if self.weight else {}

        return Hooks(wrap_objective=wrap_objective, parts=parts, query=True, rank=AGAIN)


@dataclass(frozen=True)
class RotationTerm:
    """An objective with what the turned queries add to its loss; what is shown is the objective's."""

    objective: Objective
    plain: Objective  # the same with the cross-entropy of the queries
    how: Rotation

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        result = self.objective(learner, episode, progress)
        query, turns = turned(episode.query, self.how.share)
        loss = result.loss
        if self.how.weight:
            logits = learner.part(PART, learner.features(query.x).flatten(1))
            loss = loss + self.how.weight * F.cross_entropy(logits, turns)
        if self.how.classes:
            loss = loss + self.how.classes * self.plain(learner, episode._replace(query=query), progress).loss
        return result._replace(loss=loss)


def _of_queries_alone(objective: Objective) -> Objective:
    """Return the objective without the loss that its algorithm adds to the queries'."""
    if not isinstance(objective, AuxiliaryLoss):
        return objective
    return replace(objective, algorithm=replace(cast(Any, objective.algorithm), auxiliary=0.0))


def turned(batch: Batch, share: float) -> tuple[Batch, Tensor]:
    """Return a share of the images, drawn anew, by 0, 1, 2 and 3 quarter turns [4n,C,H,H], and the turns [4n]."""
    n = max(1, int(share * batch.x.shape[0]))
    chosen = torch.rand_like(batch.x[:, 0, 0, 0]).argsort()[:n]
    x = torch.cat([torch.rot90(batch.x[chosen], k, (2, 3)) for k in range(4)])
    return batch._replace(x=x, y=batch.y[chosen].repeat(4)), torch.arange(4, device=x.device).repeat_interleave(n)
