"""The report of an evaluation on episodes: the hard classes, what they are taken for, and the worst episodes."""

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from metalab.config.schema import Task
from metalab.core.interfaces import Split
from metalab.core.text import printable
from metalab.data.sampling.build import Source
from metalab.evaluation import episode_classes
from metalab.evaluation.classifier_report import class_scores
from metalab.evaluation.query_predictions import query_classes
from metalab.evaluation.worst_episodes import worst_episodes
from metalab.tracking.class_report import ClassReport, Confusion, classification_text
from metalab.tracking.episode_sheet import episode_sheet

HARDEST = 5  # classes that eval.json names


def episode_report(
    split: Split, task: Task, source: Source, predictions: list[Tensor], accuracy: np.ndarray, pictures: bool
) -> tuple[dict[str, Any], ClassReport]:
    """Report on the classes of all episodes.

    Args:
        split: whose classes they are.
        task: the size of the episodes.
        source: of the episodes.
        predictions: int64 [T,N] of each meta-batch, labels within the episode; -1: no number.
        accuracy: float64 [E], of the first episodes, which count.
        pictures: whether there are pictures, which keep the source until they are drawn.

    Returns:
        What belongs into eval.json: the hardest classes, and of all classes at once precision, recall and F1 on
        average. And what is written beside it.
    """
    names = [printable(name) for name in episode_classes.class_names(split)]
    seen = query_classes(source, task, predictions, len(accuracy))
    by = episode_classes.class_accuracies(seen, len(names))
    confusion = Confusion(names, *episode_classes.confusion(seen))
    wrongly = episode_classes.taken_for(confusion.true, confusion.predicted, confusion.count)
    columns = {
        "class": [names[k] for k in by.classes],
        "accuracy": by.accuracy.tolist(),
        "ci95": by.ci95.tolist(),
        "episodes": by.episodes.tolist(),
        "queries": by.queries.tolist(),
        "taken_for": [names[wrongly[k]] if k in wrongly else "" for k in by.classes.tolist()],
    }
    hardest = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)][:HARDEST]
    facts: dict[str, Any] = {"hardest_classes": hardest}
    text, scalars = "", {}
    few = task.draws is None
    if not few:  # all classes compete for each query, as in a classifier
        scores, averages = class_scores(seen.true, seen.predicted, split)
        columns |= {key: [scores[key][k] for k in by.classes.tolist()] for key in ("precision", "recall", "f1")}
        facts["averages"], scalars = averages, {"f1_macro": averages["macro"]["f1"]}
        text = classification_text(seen.true, seen.predicted, [printable(name) for name in split.names])
    drawn = {}
    if pictures:
        of = "episodes" if few else "draws" if split.fold is None else "folds"
        drawn = confusion.picture(f"{len(seen.true)} queries of {len(accuracy)} {of}")
    if pictures and few:
        drawn["worst_episodes"] = partial(_sheet, source, predictions, accuracy, names)
    return facts, ClassReport(columns, confusion, text, drawn, scalars)


def _sheet(source: Source, predictions: list[Tensor], accuracy: np.ndarray, names: list[str]) -> np.ndarray:
    worst = worst_episodes(source, predictions, accuracy, names)
    title = f"the {len(worst)} of {len(accuracy)} episodes with the least accuracy"
    return episode_sheet(worst, f"{title}: support left, queries right, wrong ones first")
