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
