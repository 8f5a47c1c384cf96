"""The episodes with the least accuracy, whose images are made again: no evaluation keeps any."""

import numpy as np
from torch import Tensor

from metalab.data.sampling.build import Source
from metalab.tracking.episode_sheet import SheetEpisode

WORST = 10


def worst_episodes(
    source: Source, predictions: list[Tensor], accuracy: np.ndarray, names: list[str], most: int = WORST
) -> list[SheetEpisode]:
    """Return the episodes of the least accuracy [E], the worst first; of equal ones the earlier.

    Args:
        source: of the episodes, a function of the step.
        predictions: int64 [T,N] of each meta-batch, labels within the episode; -1: no number.
        accuracy: float64 [E], of the first episodes.
        names: [K], of the split's classes.
        most: so many, or fewer where there are fewer.
    """
    ends = np.cumsum([len(labels) for labels in predictions])
    found = []
    for number in np.argsort(accuracy, kind="stable")[:most].tolist():
        step = int(np.searchsorted(ends, number, side="right"))
        row = number - int(ends[step] - len(predictions[step]))
        episodes = source(step)
        known, labels, asked, true = (each[row].cpu().numpy() for b in episodes for each in (b.x, b.y))
        classes = source.indices(step).classes[row, : int(labels.max()) + 1].tolist()  # distractors come behind
        answers, shown = predictions[step][row].cpu().numpy(), [names[k] for k in classes]
        title = f"episode {number}: {100 * accuracy[number]:.1f} % right"
        found.append(SheetEpisode(title, shown, known, labels, asked, true, answers))
    return found
