"""What a data set itself fixes about its evaluation, and what it adds to the report."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from metalab.config import Eval, Task
from metalab.interfaces import Split

logger = logging.getLogger("metalab")


def settled(task: Task, evaluation: Eval, split: Split) -> tuple[Task, Eval]:
    """Return the settings with the sizes that the split's own episodes have; where it gives none, as they are."""
    if split.fixed is None:
        return task, evaluation
    (episodes, way), shot, query = split.fixed.classes.shape, split.fixed.shot, split.fixed.query
    logger.info(
        f"the data gives its episodes: {episodes} of {way}-way {shot}-shot with {query} queries a class; "
        "task.* and eval.episodes do not count"
    )
    task = replace(task, way=way, shot=shot, query=query, unlabelled=0, distractors=0)
    return task, replace(evaluation, episodes=episodes)


def told(split: Split, accuracy: np.ndarray) -> dict[str, Any]:
    """Return what belongs into the record beside the accuracies [episodes]: shares by name."""
    if split.fixed is None:
        return {}
    by_episode = {name: 1 - float(value) for name, value in zip(split.fixed.names, accuracy, strict=True)}
    return {"error": {"here": 1 - float(accuracy.mean()), **split.fixed.errors}, "error_of_each": by_episode}
