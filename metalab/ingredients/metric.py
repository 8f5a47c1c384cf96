"""Distances and class means for an algorithm of one's own; the names of metalab.algorithms.components.distances."""

from metalab.algorithms.components.distances import (
    best_of_class,
    class_means,
    cosines,
    distances,
    log_mass_of_class,
    members,
    squared_distances,
)

__all__ = [
    "best_of_class",
    "class_means",
    "cosines",
    "distances",
    "log_mass_of_class",
    "members",
    "squared_distances",
]
