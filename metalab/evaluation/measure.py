"""Measure a net on episodes as validation and test do: nothing dropped, nothing learned."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from metalab.core.interfaces import Engine, Episode, EpisodeSource, Objective, TaskResult
from metalab.models.layers import running_statistics


def measure(results: Iterable[TaskResult], episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the accuracy and the loss of each of the first episodes of the results, float64 [episodes]."""
    accuracy: list[torch.Tensor] = []
    loss: list[torch.Tensor] = []
    for result in results:
        accuracy.append(result.correct.double().mean(1))
        loss.append(result.scalars["loss"].double())
    joined = torch.stack([torch.cat(accuracy)[:episodes], torch.cat(loss)[:episodes]]).cpu().numpy()
    return joined[0], joined[1]


def outcomes(
    engine: Engine, objective: Objective, net: nn.Module, source: EpisodeSource, episodes: int, bn: str
) -> Iterator[TaskResult]:
    """Run an objective on one meta-batch of a source after another, until so many episodes have been seen."""
    step = seen = 0
    while seen < episodes:
        result = outcome(engine, objective, net, source(step), bn)
        yield result
        seen, step = seen + len(result.correct), step + 1


def outcome(engine: Engine, objective: Objective, net: nn.Module, episodes: Episode, bn: str) -> TaskResult:
    """Run an objective on a meta-batch as validation and test do: nothing dropped, the stored statistics if running."""
    net.eval()
    with running_statistics() if bn == "running" else nullcontext():
        return engine.evaluate(objective, net, episodes)
