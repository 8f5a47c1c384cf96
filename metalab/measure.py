"""Measure a net on episodes as validation and test do: nothing dropped, nothing learned."""

from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from metalab.interfaces import Engine, Episode, EpisodeSource, Objective, TaskResult
from metalab.models.layers import running_statistics


def measure(
    engine: Engine, objective: Objective, net: nn.Module, source: EpisodeSource, episodes: int, bn: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the accuracy and the loss of each of the first episodes of a source, float64 [episodes]."""
    accuracy: list[torch.Tensor] = []
    loss: list[torch.Tensor] = []
    step = 0
    while sum(map(len, accuracy)) < episodes:
        result = outcome(engine, objective, net, source(step), bn)
        accuracy.append(result.correct.double().mean(1))
        loss.append(result.scalars["loss"].double())
        step += 1
    joined = torch.stack([torch.cat(accuracy)[:episodes], torch.cat(loss)[:episodes]]).cpu().numpy()
    return joined[0], joined[1]


def outcome(engine: Engine, objective: Objective, net: nn.Module, episodes: Episode, bn: str) -> TaskResult:
    """Run an objective on a meta-batch as validation and test do: nothing dropped, the stored statistics if running."""
    net.eval()
    with running_statistics() if bn == "running" else nullcontext():
        return engine.evaluate(objective, net, episodes)
