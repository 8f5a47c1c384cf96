"""What a data set itself fixes about its evaluation, and what it adds to the report."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from metalab.config.schema import Eval, Task
from metalab.core.interfaces import ClassFamilies, Split
from metalab.core.statistics import mean_ci95
from metalab.data.sampling.all_way import AllWayEpisodes
from metalab.data.sampling.build import Source
from metalab.data.sampling.variable_sampler import VariableEpisodeSampler
from metalab.evaluation import classification
from metalab.evaluation.all_way import protocol as all_way

logger = logging.getLogger("metalab")


def apply_data_protocol(task: Task, evaluation: Eval, split: Split) -> tuple[Task, Eval]:
    """Return the settings with the sizes that the split's own episodes have; where it gives none, as they are."""
    if task.draws is not None:
        return all_way.all_way_protocol(task, evaluation, split)
    if split.by_image:
        logger.info(
            f"the data splits images: all {len(split.images)} count once; task.* and eval.episodes do not count"
        )
        return classification.classification_protocol(task, evaluation, split)
    if split.fixed is None:
        return task, evaluation
    (episodes, way), shot, query = split.fixed.classes.shape, split.fixed.shot, split.fixed.query
    logger.info(
        f"the data gives its episodes: {episodes} of {way}-way {shot}-shot with {query} queries a class; "
        "task.* and eval.episodes do not count"
    )
    task = replace(
        task, way=way, shot=shot, query=query, unlabelled=0, distractors=0, support=None, shots=None, label_noise=0.0
    )
    return task, replace(evaluation, episodes=episodes)


def sizes(task: Task) -> dict[str, Any]:
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


def protocol_metrics(split: Split, accuracy: np.ndarray, source: Source) -> dict[str, Any]:
    """Return what belongs into the record beside the accuracies [episodes] of a source's first episodes."""
    metrics: dict[str, Any] = classification.facts(split) if split.by_image else {}
    if split.fixed is not None:
        by_episode = {name: 1 - float(value) for name, value in zip(split.fixed.names, accuracy, strict=True)}
        metrics |= {
            "error": {"here": 1 - float(accuracy.mean()), **split.fixed.errors},
            "error_of_each": by_episode,
        }
    if split.families is not None and len(set(split.families.source)) > 1:
        metrics["sources"] = _by_source(split.families, accuracy, source)
    if isinstance(source, AllWayEpisodes):
        metrics |= {"queries": source.queries}
        metrics |= {"accuracy_of_each": {f"draw {i}": float(value) for i, value in enumerate(accuracy, 1)}}
    if isinstance(source, VariableEpisodeSampler) and source.least < source.query:
        metrics["query"] = f"{source.least}..{source.query}"
    return metrics


def _by_source(families: ClassFamilies, accuracy: np.ndarray, source: Source) -> dict[str, dict[str, float]]:
    """Return accuracy, its interval and the number of episodes of each data set."""
    owners: list[str] = []
    step = 0
    while len(owners) < len(accuracy):
        drawn = families.family[source.indices(step).classes[:, 0]]
        owners += [families.source[f] for f in drawn.tolist()]
        step += 1
    values = {name: [] for name in dict.fromkeys(families.source)}
    for owner, value in zip(owners, accuracy.tolist(), strict=False):
        values[owner].append(value)
    results = {name: (*mean_ci95(own), len(own)) for name, own in values.items() if own}
    return {name: dict(zip(("accuracy", "ci95", "episodes"), each, strict=True)) for name, each in results.items()}
