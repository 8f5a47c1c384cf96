"""How hard each shared episode is, where methods differ, and such episodes with everybody's predictions."""

from collections.abc import Sequence

import numpy as np

from metalab.core.text import printable
from metalab.evaluation.comparison.measured import Measured
from metalab.evaluation.comparison.ranking import by_episode
from metalab.tracking.comparison.records import Difficulty, Method, RunResult, ShownEpisode

CLASSES, SUPPORT, QUERIES = 10, 3, 5  # the most that one episode shows, a class


def difficulty(methods: Sequence[Method], runs: Sequence[RunResult]) -> Difficulty | None:
    """Return how hard the episodes are for the methods whose runs were all measured on them; None: fewer than two."""
    same = [method for method in methods if all(runs[i].paired for i in method.runs)]
    if len(same) < 2:
        return None
    accuracy = np.stack([by_episode(method, runs) for method in same])
    spread = np.round(accuracy.max(0) - accuracy.min(0), 12)
    return Difficulty([method.label for method in same], accuracy, accuracy.mean(0), spread)


def shown_episodes(
    found: Difficulty, measured: Sequence[Measured], runs: Sequence[RunResult], labels: Sequence[str], most: int
) -> list[ShownEpisode]:
    """Return the episode of median difficulty, then those of the largest disagreement, at most so many.

    labels: of the runs. Nothing where no predictions were kept, as eval.report=false keeps none.
    """
    kept = [i for i, run in enumerate(runs) if run.paired and measured[i].predictions]
    if not kept or most == 0:
        return []
    order = np.lexsort((np.arange(len(found.mean)), found.mean))
    median = int(order[len(order) // 2])
    numbers = [int(n) for n in np.argsort(-found.disagreement, kind="stable")[:most] if found.disagreement[n] > 0]
    said = {median: f"median difficulty, {100 * found.mean[median]:.1f} % right on average"}
    for number in numbers:
        said.setdefault(number, f"methods are {100 * found.disagreement[number]:.1f} points apart")
    return [_shown(number, why, measured, kept, labels) for number, why in said.items()]


def _shown(
    number: int, why: str, measured: Sequence[Measured], kept: Sequence[int], labels: Sequence[str]
) -> ShownEpisode:
    """Make the images of an episode again, and put the runs' predictions beside them: the queries that divide first."""
    first = measured[kept[0]]
    step, row = _place(number, [len(part) for part in first.predictions])
    source = first.source()
    episodes, drawn = source(step), source.indices(step)
    known, labelled, asked, true = (each[row].numpy() for side in episodes for each in (side.x, side.y))
    answers = {}
    for i in kept:
        its_step, its_row = _place(number, [len(part) for part in measured[i].predictions])
        answers[labels[i]] = measured[i].predictions[its_step][its_row].numpy()
    way = min(int(true.max()) + 1, CLASSES)
    names = [printable(first.names[k]) for k in drawn.classes[row, :way].tolist()]
    right = np.mean([given == true for given in answers.values()], axis=0)
    divided = np.argsort(np.abs(right - 0.5), kind="stable")
    support = np.concatenate([np.flatnonzero(labelled == k)[:SUPPORT] for k in range(way)])
    query = np.concatenate([divided[true[divided] == k][:QUERIES] for k in range(way)])
    return ShownEpisode(
        number,
        why,
        names,
        _bytes(known[support]),
        labelled[support],
        _bytes(asked[query]),
        true[query],
        {label: given[query] for label, given in answers.items()},
    )


def _place(number: int, sizes: Sequence[int]) -> tuple[int, int]:
    """Return the meta-batch of an episode and its row there, by how many episodes each meta-batch has."""
    ends = np.cumsum(sizes)
    step = int(np.searchsorted(ends, number, side="right"))
    return step, number - int(ends[step] - sizes[step])


def _bytes(images: np.ndarray) -> np.ndarray:
    """Return images in [0,1] as uint8."""
    return (255 * images.clip(0, 1)).round().astype(np.uint8)
