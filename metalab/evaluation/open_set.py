"""How well queries of classes outside an episode are told from those of its own: eval.unknown."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metalab.algorithms.objectives.prediction import Prediction
from metalab.config.schema import Task
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Batch, Episode, EpisodeSource, Learner, Loss, TaskResult
from metalab.core.iteration import last
from metalab.core.statistics import mean_ci95


@dataclass(frozen=True)
class OpenSetObjective:
    """The area under the ROC curve of the largest logit, of queries of the episode's classes against all others.

    The largest logit says how much a query looks like one of the classes (maximum logit score, Vaze, Han, Vedaldi,
    Zisserman 2022, sec. 4). The support has the classes below `way` alone, the queries others, too. The area is the
    share of pairs of a known and an unknown query in which the known one's is larger, ties counting half.
    """

    algorithm: Algorithm
    steps: int
    inner: Loss
    predict: Prediction
    way: int

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        model = last(self.algorithm.adapt(learner, episode.support, self.inner, self.steps))
        score = self.predict(model, episode.support.x, episode.query.x).amax(-1)
        area = auroc(score, episode.query.y < self.way)
        return TaskResult(area, episode.query.y < self.way, {"auroc": area}, {})


def auroc(score: Tensor, known: Tensor) -> Tensor:
    """Return the area under the ROC curve, a scalar, of scores [N] that are to be larger where `known`, bool [N]."""
    above = score[:, None] - score[None, :]
    pairs = (known[:, None] & ~known[None, :]).to(score.dtype)
    return (((above > 0).to(score.dtype) + (above == 0).to(score.dtype) / 2) * pairs).sum() / pairs.sum()


def with_unknown(source: EpisodeSource, way: int) -> EpisodeSource:
    """Return episodes whose support has the classes below `way` alone; the queries keep those of all classes."""

    def episodes(step: int) -> Episode:
        drawn = source(step)
        known = drawn.support.y < way  # as many in each episode
        tasks = len(known)
        x, y = (part[known].unflatten(0, (tasks, -1)) for part in (drawn.support.x, drawn.support.y))
        return Episode(Batch(x, y, drawn.support.unlabelled), drawn.query)

    return episodes


def open_set_task(task: Task, unknown: int) -> Task:
    """Return the task with so many classes more, which its support will not have.

    Raises:
        UserError: for tasks that have no fixed way, or images of other classes already.
    """
    if not task.fixed or task.unlabelled or task.distractors:
        raise UserError(
            f"eval.unknown={unknown}: expected tasks of a fixed way without unlabelled images: type task=fixed"
        )
    if task.query_balance is not None:
        raise UserError(
            f"eval.unknown={unknown} with task.query_balance={task.query_balance}: an episode may have no query of its "
            "own classes left, or none of others: type task.query_balance=null"
        )
    for key, value in (("shots", task.shots), ("label_noise", task.label_noise or None)):
        if value is not None:
            raise UserError(
                f"eval.unknown={unknown} with task.{key}={value}: the support of the classes that are added is taken "
                f"away, and would take labels or shots along: type task.{key}={'null' if key == 'shots' else 0}"
            )
    return replace(task, way=task.way + unknown)


def open_set_metrics(
    measured: Callable[[Episode], TaskResult], source: EpisodeSource, episodes: int, unknown: int
) -> dict[str, Any]:
    """Return the mean area under the ROC curve over episodes and its 95 % interval.

    Args:
        measured: what an OpenSetObjective gives on a meta-batch.
        source: of episodes, as with_unknown makes them.
        episodes: how many.
        unknown: the number of classes outside each episode.
    """
    found: list[Tensor] = []
    while sum(map(len, found)) < episodes:
        found.append(measured(source(len(found))).scalars["auroc"])
    mean, half = mean_ci95(torch.cat(found)[:episodes].double().cpu().numpy())
    return {"unknown": {"classes": unknown, "auroc": mean, "ci95": half}}
