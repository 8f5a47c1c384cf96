"""Which sampler gives the episodes of a task."""

import torch
from torch import Tensor

from metalab.data.ahead import Ahead
from metalab.data.augment import Augment
from metalab.data.batches import Batches
from metalab.data.episodes import Episodes
from metalab.data.once import Once
from metalab.data.variable import VariableEpisodes
from metalab.interfaces import EpisodeSource, Split
from metalab.task import Task

Source = Episodes | VariableEpisodes | Batches | Once


def episode_source(
    task: Task, split: Split, tasks: int, seed: int, stream: str, where: torch.device, augment: Augment | None = None
) -> Source:
    """Return episodes of the task's size: `tasks` of them a step, or one where way and shots are drawn.

    Where the data splits images there is none, but every image once, `tasks` of them a step.
    """
    if split.by_image:
        return Once(split, tasks, where)
    if task.support is not None:
        return VariableEpisodes(split, task.way, task.shot, task.query, task.support, seed, stream, where, augment)
    beside = (task.unlabelled, task.distractors)
    return Episodes(split, task.way, task.shot, task.query, tasks, seed, stream, where, *beside, augment)


def prefetched(source: Source, images: Tensor, workers: int | None, where: torch.device) -> EpisodeSource:
    """Return the source with `workers` threads that make its episodes ahead; 0: as it is.

    None: 2 where the images are not on the GPU that trains, 0 else.
    """
    if workers is None:
        workers = 2 if where.type != images.device.type else 0
    return Ahead(source, workers) if workers else source
