"""What a data set adds to the record of its evaluation."""

from typing import Any

import numpy as np

from metalab.core.interfaces import ClassFamilies, Split
from metalab.core.statistics import mean_ci95
from metalab.data.sampling.all_way import AllWayEpisodes
from metalab.data.sampling.build import Source
from metalab.data.sampling.variable_sampler import VariableEpisodeSampler
from metalab.evaluation.protocols.build import evaluation_protocol


def split_metrics(split: Split, accuracy: np.ndarray, source: Source) -> dict[str, Any]:
    """Return what belongs into the record beside the accuracies [episodes] of a source's first episodes."""
    metrics = evaluation_protocol(split).facts(split)
    if split.fixed is not None:
        by_episode = {name: 1 - float(value) for name, value in zip(split.fixed.names, accuracy, strict=True)}
        metrics |= {
            "error": {"here": 1 - float(accuracy.mean()), **split.fixed.errors},
            "error_of_each": by_episode,
        }
    if split.families is not None and len(set(split.families.source)) > 1:
        metrics["sources"] = _by_source(split.families, accuracy, source)
    if isinstance(source, AllWayEpisodes):
        metrics |= _all_way(split, accuracy, source)
    if isinstance(source, VariableEpisodeSampler) and source.least < source.query:
        metrics["query"] = f"{source.least}..{source.query}"
    return metrics


def _all_way(split: Split, accuracy: np.ndarray, source: AllWayEpisodes) -> dict[str, Any]:
    """Return how many images were asked, of which supports, and the accuracy of each draw, or of each fold.

    over_images: of folds, the share of all images that were classified rightly, with the interval of so many zeros and
    ones.
    """
    metrics: dict[str, Any] = {"queries": source.queries}
    if split.fold is not None:
        images = np.bincount(split.fold.numpy(), minlength=len(accuracy))
        right = int((accuracy * images).round().sum())
        mean, ci95 = mean_ci95(np.repeat([1.0, 0.0], [right, int(images.sum()) - right]))
        over = {"accuracy": mean, "ci95": ci95, "images": int(images.sum())}
        metrics |= {"shot": None, "query": None, "folds": len(accuracy), "over_images": over}
    if split.support is not None:
        metrics |= {"query": "all", "support": "train split"}
    each = "draw" if split.fold is None else "fold"
    begin = 1 if split.fold is None else 0
    return metrics | {"accuracy_of_each": {f"{each} {i}": float(value) for i, value in enumerate(accuracy, begin)}}


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
