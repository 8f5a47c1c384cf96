"""What `metalab eval` measures besides the common protocol: the shares that a further objective shows."""

from collections.abc import Callable
from dataclasses import replace

import torch

from metalab.algorithms.build import AlgorithmSettings
from metalab.algorithms.training_task import resolve_training_task
from metalab.config.schema import Task
from metalab.core.interfaces import Episode, EpisodeSource, Split, TaskResult
from metalab.core.statistics import mean_ci95

Metrics = dict[str, dict[str, dict[str, float]]]  # group, name -> accuracy, ci95 and episodes, as in eval.json


def extra_metrics_task(task: Task, algo: AlgorithmSettings, split: Split) -> Task:
    """Return the task of the further objective: the way of the test, shots and queries as in training, true labels."""
    clean = replace(task, train_way=task.way, shots=None, label_noise=0.0, train_label_noise=0.0)
    sizes = resolve_training_task(clean, algo, len(split.ids), int(split.count.min()))
    return replace(clean, shot=sizes.train_shot or task.shot, query=sizes.train_query or task.query)


def extra_metrics(run: Callable[[Episode], TaskResult], source: EpisodeSource, episodes: int) -> Metrics:
    """Return the mean and the 95 % interval over episodes of every scalar that is named group/name."""
    found: dict[str, list[torch.Tensor]] = {}
    step = seen = 0
    while seen < episodes:
        result = run(source(step))
        for name, value in result.scalars.items():
            if "/" in name:
                found.setdefault(name, []).append(value.double().cpu())
        seen, step = seen + len(result.loss), step + 1
    shares: Metrics = {}
    for name, values in found.items():
        group, _, own = name.partition("/")
        accuracy, ci95 = mean_ci95(torch.cat(values)[:episodes].numpy())
        shares.setdefault(group, {})[own] = {"accuracy": accuracy, "ci95": ci95, "episodes": episodes}
    return shares
