"""Which class each query was taken for: kept while an evaluation runs, and counted by class when it is over."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.config.schema import Task
from metalab.core.interfaces import Batch, Episode, Learner, Model, TaskResult
from metalab.data.sampling.build import Source
from metalab.data.sampling.episode_indices import EpisodeIndices

NONE = -1  # the class of a prediction that is no number


@dataclass(frozen=True)
class WithPredictions:
    """A measured objective that also shows what it judged, from the same pass and with the same numbers.

    scalars: `logits` [N,K] of the queries where `logits` is true, else `predicted` int64 [N], the class or NONE.
    """

    objective: QueryLoss
    logits: bool = False

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        seen: list[Tensor] = []

        def outer(model: Model, batch: Batch) -> Tensor:
            def kept(x: Tensor) -> Tensor:
                seen.append(model(x))
                return seen[-1]

            return self.objective.outer(kept, batch)

        result = replace(self.objective, outer=outer)(learner, episode, progress)
        shown = {"logits": seen[0]} if self.logits else {"predicted": predicted(seen[0])}
        return result._replace(scalars=result.scalars | shown)


def predicted(logits: Tensor) -> Tensor:
    """Return int64 [N], the classes of logits [N,K]; NONE where they are not numbers, which no class is right for."""
    return torch.where(logits.amax(-1).isfinite(), logits.argmax(-1), NONE)


@dataclass
class Kept:
    """One output of every meta-batch of an evaluation, and of no image: the scalar `name` of its results."""

    name: str
    parts: list[Tensor] = field(default_factory=list)  # [T,N,...] a meta-batch, on the device

    def watch(self, results: Iterable[TaskResult]) -> Iterator[TaskResult]:
        """Give the results as they come."""
        for result in results:
            self.parts.append(result.scalars[self.name])
            yield result


@dataclass(frozen=True)
class QueryClasses:
    """Of each query of an evaluation its episode, its class and the class that it was taken for."""

    episode: np.ndarray  # int64 [Q], 0, 1, ...
    true: np.ndarray  # int64 [Q], a class of the split
    predicted: np.ndarray  # int64 [Q], likewise, or NONE


def query_labels(draw: EpisodeIndices, task: Task, queries: int) -> Tensor:
    """Return int64 [T,queries], the labels of the queries of a meta-batch whose indices these are."""
    end = draw.label.shape[1] - (task.way + task.distractors) * task.unlabelled  # support, queries, unlabelled
    return draw.label[:, end - queries : end]


def query_classes(source: Source, task: Task, predictions: list[Tensor], episodes: int) -> QueryClasses:
    """Return the classes of the queries of the first episodes, by drawing the indices of the meta-batches again.

    predictions: int64 [T,N] of each meta-batch, labels within the episode.
    """
    columns: list[list[np.ndarray]] = [[], [], []]
    seen = 0
    for step, labels in enumerate(predictions):
        draw, answers = source.indices(step), labels.cpu()
        label = query_labels(draw, task, answers.shape[1])
        classes = draw.classes.expand(len(label), -1)
        number = torch.arange(seen, seen + len(label))[:, None].expand_as(label)
        taken = torch.where(answers < 0, NONE, classes.gather(1, answers.clamp(min=0)))
        for column, each in zip(columns, (number, classes.gather(1, label), taken), strict=True):
            column.append(each[: episodes - seen].flatten().numpy())
        seen += len(label)
    return QueryClasses(*(np.concatenate(column) for column in columns))
