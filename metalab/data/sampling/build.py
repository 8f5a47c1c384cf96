"""Which sampler gives the episodes of a task."""

import torch
from torch import Tensor

from metalab.config.schema import Task
from metalab.core.interfaces import EpisodeSource, Split
from metalab.data.sampling.augment import Augment
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.data.sampling.mini_batches import MiniBatches
from metalab.data.sampling.prefetch import Prefetcher
from metalab.data.sampling.sequential import SequentialImages
from metalab.data.sampling.variable_sampler import VariableEpisodeSampler

Source = EpisodeSampler | VariableEpisodeSampler | MiniBatches | SequentialImages


def episode_source(
    task: Task, split: Split, tasks: int, seed: int, stream: str, device: torch.device, augment: Augment | None = None
) -> Source:
    """Return the source of a split's episodes: a function of seed, stream and step alone.

    Args:
        task: way, shot and query, and what else an episode holds.
        split: the classes and their images.
        tasks: episodes a step; one where way and shots are drawn anew for each. Where the data splits images there are
            no episodes, but every image once, so many a step.
        seed: of all streams.
        stream: its name; another one draws other episodes.
        device: where the images are to be.
        augment: what is done to the images; None: nothing.

    Raises:
        UserError: where the split has too few classes or images.
    """
    if split.by_image:
        return SequentialImages(split, tasks, device)
    if task.support is not None:
        return VariableEpisodeSampler(
            split, task.way, task.shot, task.query, task.support, seed, stream, device, augment
        )
    beside = (task.unlabelled, task.distractors)
    return EpisodeSampler(split, task.way, task.shot, task.query, tasks, seed, stream, device, *beside, augment)


def prefetched(source: Source, images: Tensor, workers: int | None, device: torch.device) -> EpisodeSource:
    """Return the source with `workers` threads that make its episodes ahead; 0: as it is.

    None: 2 where the images are not on the GPU that trains, 0 else.
    """
    if workers is None:
        workers = 2 if device.type != images.device.type else 0
    return Prefetcher(source, workers) if workers else source
