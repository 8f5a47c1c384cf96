"""Which classes are hard: accuracy by class over all episodes, and what they are taken for."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from metalab.core.interfaces import Split
from metalab.core.statistics import mean_ci95
from metalab.data.identity.class_ids import OWN
from metalab.evaluation.query_predictions import NONE, QueryClasses


@dataclass(frozen=True)
class ClassAccuracies:
    """Accuracy of each class that was in an episode, hardest first."""

    classes: np.ndarray  # int64 [C], classes of the split
    accuracy: np.ndarray  # float64 [C], the mean over the episodes with the class, a fraction
    ci95: np.ndarray  # float64 [C], half-width of its 95 % interval over these episodes; nan for one episode
    episodes: np.ndarray  # int64 [C]
    queries: np.ndarray  # int64 [C]


def class_accuracies(seen: QueryClasses, classes: int) -> ClassAccuracies:
    """Return the accuracy of each class of the split that was seen.

    The interval is over episodes and not over queries: those of one episode share a support, and are right or wrong
    together.
    """
    cell, index = np.unique(
        seen.episode * classes + seen.true, return_inverse=True
    )  # an episode and one of its classes
    queries = np.bincount(index)
    share = np.bincount(index, seen.true == seen.predicted) / queries
    of = cell % classes
    order = np.argsort(of, kind="stable")
    there, start, episodes = np.unique(of[order], return_index=True, return_counts=True)
    accuracy, ci95 = np.array([mean_ci95(each) for each in np.split(share[order], start[1:])]).T
    total = np.bincount(of, queries, classes)[there].astype(np.int64)
    hardest = np.argsort(accuracy, kind="stable")
    return ClassAccuracies(*(each[hardest] for each in (there, accuracy, ci95, episodes, total)))


def confusion(seen: QueryClasses) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the true class, the predicted one (or NONE) and the number of queries of each pair that was seen, [P]."""
    pairs, count = np.unique(np.stack([seen.true, seen.predicted]), axis=1, return_counts=True)
    return pairs[0], pairs[1], count


def taken_for(true: np.ndarray, predicted: np.ndarray, count: np.ndarray) -> dict[int, int]:
    """Return, for each class that was ever wrong, the other class that it was taken for most often."""
    wrong = (true != predicted) & (predicted != NONE)
    order = np.argsort(count[wrong], kind="stable")  # the most frequent comes last, and stays
    return dict(zip(true[wrong][order].tolist(), predicted[wrong][order].tolist(), strict=True))


def class_names(split: Split) -> list[str]:
    """Return a name for each class: its global id, or, of one's own images and of those that share one, what is shown.

    Rotations of a character share one. Of two classes of one's own with one name the id stands behind it.
    """
    often, same = Counter(split.ids), Counter(split.names)

    def named(each: str, name: str) -> str:
        if each.startswith(OWN):
            return name if same[name] == 1 else f"{name} ({each})"
        return each if often[each] == 1 else f"{each.partition(':')[0]}:{name}"

    return [named(each, name) for each, name in zip(split.ids, split.names, strict=True)]
