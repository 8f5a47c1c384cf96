"""Which sampler gives the episodes of a task."""

import torch

from metalab.data.augment import Augment
from metalab.data.batches import Batches
from metalab.data.episodes import Episodes
from metalab.data.variable import VariableEpisodes
from metalab.interfaces import Split
from metalab.task import Task

Source = Episodes | VariableEpisodes | Batches


def episode_source(
    task: Task, split: Split, tasks: int, seed: int, stream: str, where: torch.device, augment: Augment | None = None
) -> Source:
    """Return episodes of the task's size: `tasks` of them a step, or one where way and shots are drawn."""
    if task.support is not None:
        return VariableEpisodes(split, task.way, task.shot, task.query, task.support, seed, stream, where, augment)
    beside = (task.unlabelled, task.distractors)
    return Episodes(split, task.way, task.shot, task.query, tasks, seed, stream, where, *beside, augment)
