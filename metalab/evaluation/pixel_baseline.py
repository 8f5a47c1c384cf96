"""Pixel nearest neighbour: what a method must beat to have learned anything."""

import torch

from metalab.core.interfaces import EpisodeSource
from metalab.core.statistics import mean_ci95


def pixel_nearest_neighbour(source: EpisodeSource, episodes: int) -> tuple[float, float]:
    """Return accuracy and its 95 % confidence interval (fractions) of the nearest support image on raw pixels.

    Nearest by cosine of the images as they are; `episodes` episodes are taken from the source's first meta-batches,
    and the interval is that of core.statistics.mean_ci95, as for every method.
    """
    accuracies: list[torch.Tensor] = []
    seen = step = 0
    while seen < episodes:
        support, query, step = *source(step), step + 1
        a, b = (torch.nn.functional.normalize(part.x.flatten(2), dim=2) for part in (support, query))
        nearest = (b @ a.mT).argmax(2)  # [T,queries], index of a support image
        correct = support.y.gather(1, nearest) == query.y
        accuracies.append(correct.double().mean(1).cpu())
        seen += len(correct)
    return mean_ci95(torch.cat(accuracies)[:episodes].numpy())
