"""Which sampler gives the episodes of a task."""

import torch
from torch import Tensor

from metalab.config.schema import Task, wrong_labels
from metalab.core.interfaces import EpisodeSource, Split
from metalab.data.sampling.all_way import AllWayEpisodes
from metalab.data.sampling.augment import Augment
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.data.sampling.episode_size import EVALUATED
from metalab.data.sampling.mini_batches import MiniBatches
from metalab.data.sampling.prefetch import Prefetcher
from metalab.data.sampling.sequential import SequentialImages
from metalab.data.sampling.target_images import ALL
from metalab.data.sampling.variable_sampler import VariableEpisodeSampler

Source = EpisodeSampler | VariableEpisodeSampler | MiniBatches | SequentialImages | AllWayEpisodes


def episode_source(
    task: Task,
    split: Split,
    tasks: int,
    seed: int,
    stream: str,
    device: torch.device,
    augment: Augment | None = None,
    part: slice = ALL,
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
        part: which of a step's episodes are made, where there are several.

    Raises:
        UserError: where the split has too few classes or images.
    """
    if split.by_image:
        return SequentialImages(split, tasks, device)
    if task.draws is not None:
        return AllWayEpisodes(split, task.shot, seed, stream, device)
    if task.support is not None:
        return VariableEpisodeSampler(
            split, task.way, task.shot, task.query, task.support, seed, stream, device, augment
        )
    beside = (task.unlabelled, task.distractors)
    uneven = task.dirichlet if task.query_balance is not None and stream in EVALUATED.values() else None
    shots = None if task.shots is None else tuple(task.shots)
    wrong = wrong_labels(task.shot, task.label_noise, "label_noise", "shot")
    sizes = (task.way, task.shot, task.query)
    return EpisodeSampler(split, *sizes, tasks, seed, stream, device, *beside, augment, uneven, shots, wrong, part)


def steps_of(source: Source, episodes: int) -> int:
    """Return how many steps of a source have so many episodes; of one that has every image once, those of all."""
    if isinstance(source, SequentialImages):
        return source.steps
    return -(-episodes // (source.tasks if isinstance(source, EpisodeSampler | MiniBatches) else 1))


def prefetched(source: EpisodeSource, images: Tensor, workers: int | None, device: torch.device) -> EpisodeSource:
    """Return the source with `workers` threads that make its episodes ahead; 0: as it is.

    None: 2 where the images are not on the GPU that trains, 0 else.
    """
    if workers is None:
        workers = 2 if device.type != images.device.type else 0
    return Prefetcher(source, workers) if workers else source
