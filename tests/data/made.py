"""Splits and episodes of tiny images."""

import torch

from metalab.core.interfaces import Split
from metalab.data.sampling.episode_sampler import EpisodeSampler

CPU = torch.device("cpu")


def make_split(classes=12, images: int | list[int] = 9, side=4, channels=1, **more):
    """Make a split whose images have class and image number in their first two pixels, for checks by content."""
    counts = torch.full((classes,), images) if isinstance(images, int) else torch.tensor(images)
    classes, first = len(counts), counts.cumsum(0) - counts
    noise = torch.Generator().manual_seed(0)
    shape = (int(counts.sum()), channels, side, side)
    pixels = torch.randint(256, shape, generator=noise, dtype=torch.uint8)
    pixels[:, :, 0, 0] = torch.repeat_interleave(torch.arange(classes), counts)[:, None].byte()
    pixels[:, :, 0, 1] = (torch.arange(len(pixels)) % 256)[:, None].byte()
    names = [f"name{k}" for k in range(classes)]
    return Split(pixels, first, counts, [f"test:{k}" for k in range(classes)], names, **more)


def make(split=None, way=5, shot=2, query=3, tasks=4, seed=0, stream="train", **more):
    return EpisodeSampler(split or make_split(), way, shot, query, tasks, seed, stream, CPU, **more)


def make_one(split, step):
    episode = make(split, tasks=1)(step)
    return [t[0] for t in episode.support], [t[0] for t in episode.query]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
