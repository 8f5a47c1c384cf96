"""Episodes of classes that the net has not seen, each with a support."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor

from metalab.algorithms.build import AlgorithmSettings
from metalab.config.schema import Eval, Task
from metalab.core.interfaces import Algorithm, Engine, Split
from metalab.core.statistics import mean_ci95
from metalab.data.identity.class_ids import seen_classes
from metalab.data.sampling.build import Source
from metalab.data.sampling.episode_indices import EpisodeIndices
from metalab.evaluation import query_predictions
from metalab.evaluation.all_way.protocol import all_way_protocol
from metalab.evaluation.episode_report import episode_report
from metalab.evaluation.robustness import Attacks
from metalab.tracking.class_report import ClassReport

logger = logging.getLogger("metalab")
AGAIN = "episodes of the train split that are drawn apart from those of training"


@final
@dataclass(frozen=True)
class EpisodeProtocol:
    """Episodes of the split's classes: a support to adapt to, and queries that are judged."""

    unit: str = "episodes"
    has_support: bool = True
    needs_logits: bool = False

    def as_labelled(self, split: Split, saved: Mapping[str, Any] | None) -> Split:
        """Return the split as it is: the classes of an episode are numbered anew."""
        return split

    def sized(self, task: Task, evaluation: Eval, split: Split) -> tuple[Task, Eval]:
        """Return the settings with the sizes of the only episodes that a split gives, or of all its classes at once."""
        if task.draws is not None:
            return all_way_protocol(task, evaluation, split)
        if split.fixed is None:
            return task, evaluation
        (episodes, way), shot, query = split.fixed.classes.shape, split.fixed.shot, split.fixed.query
        logger.info(
            f"the data gives its episodes: {episodes} of {way}-way {shot}-shot with {query} queries a class; "
            "task.* and eval.episodes do not count"
        )
        task = replace(
            task,
            way=way,
            shot=shot,
            query=query,
            unlabelled=0,
            distractors=0,
            support=None,
            shots=None,
            label_noise=0.0,
        )
        return task, replace(evaluation, episodes=episodes)

    def refuse_untrained(self, split: Split) -> None:
        return

    def check_run(self, run: Path | None, algo: str, saved: Mapping[str, Any], split: Split, attacks: Attacks) -> None:
        return

    def algorithm(self, algorithm: Algorithm, algo: AlgorithmSettings, split: Split, bn: str) -> Algorithm:
        return algorithm

    def engine(self, engine: Engine) -> Engine:
        return engine

    def count(self, evaluation: Eval, split: Split) -> int:
        return evaluation.episodes

    def images_of(self, task: Task) -> int:
        return task.labelled + task.way * task.query

    def seen(self, split: Split, trained: list[str], part: str) -> tuple[list[str], str]:
        """Return the classes that were trained on."""
        return seen_classes(split, trained), f"{len(set(split.ids))} classes"

    def refuse_other_validation(self, split: Split, saved: Mapping[str, Any], what: str, instead: str) -> None:
        """Do nothing: classes that were trained on are refused as such."""

    def query_labels(self, draw: EpisodeIndices, task: Task, queries: int) -> Tensor:
        return query_predictions.query_labels(draw, task, queries)

    def judged(self, logits: Tensor) -> Tensor:
        return query_predictions.predicted(logits)

    def report(
        self,
        split: Split,
        task: Task,
        source: Source,
        judged: list[Tensor],
        accuracy: np.ndarray,
        temperature: float | None,
        pictures: bool,
    ) -> tuple[dict[str, Any], ClassReport]:
        return episode_report(split, task, source, judged, accuracy, pictures)

    def facts(self, split: Split) -> dict[str, Any]:
        return {}

    def sizes(self, task: Task) -> dict[str, Any]:
        return episode_sizes(task)

    def notes(self, part: str) -> set[str]:
        return {AGAIN} if part == "train" else set()

    def accuracy_record(self, accuracy: np.ndarray, split: Split, source: Source) -> dict[str, Any]:
        mean, ci95 = mean_ci95(accuracy)
        return {"accuracy": mean, "ci95": ci95, "episodes": len(accuracy)}


def episode_sizes(task: Task) -> dict[str, Any]:
    """Return what the record says of the episodes' size."""
    if not task.fixed:
        return {"way": f"5..{task.way}", "shot": "variable", "query": task.query, "support_at_most": task.support}
    if task.draws is not None:
        return {"way": task.way, "shot": task.shot, "query": "all other"}
    beside: dict[str, Any] = {"unlabelled": task.unlabelled, "distractors": task.distractors}
    beside |= {"label_noise": task.label_noise}
    if task.query_balance is not None:
        beside |= {"query_balance": task.query_balance, "dirichlet": task.dirichlet}
    return {"way": task.way, "shot": task.shot if task.shots is None else task.shot_words, "query": task.query} | {
        k: v for k, v in beside.items() if v
    }
