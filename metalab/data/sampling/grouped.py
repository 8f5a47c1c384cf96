"""Grouped sampling: images of one group, such as one video or one drawer, never on both sides of an episode."""

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.sampling.episode_size import EpisodeSize, Numbers


def group_by_filename(split: Split, pattern: str | None) -> Split:
    """Return the split with its images grouped by what data.group finds in their file names; null: as it is."""
    return split if pattern is None else replace(split, group=torch.tensor(filename_groups(split.files, pattern)))


def filename_groups(files: Sequence[str], pattern: str) -> list[int]:
    """Return the group of each file, 0..G-1, by what data.group finds in its name.

    A regular expression, found anywhere in the name; what its parentheses hold, else all of it, names the group.
    UserError where it is none, or a file does not have it.
    """
    try:
        found = [re.search(pattern, file) for file in files]
    except re.error as error:
        raise UserError(
            rf"data.group={pattern} is no regular expression ({error}): type one as data.group='_(\d+)\.png'"
        ) from error
    missing = [file for file, match in zip(files, found, strict=True) if match is None]
    if missing or not found:
        raise UserError(
            f"data.group={pattern} is not in {len(missing)} of the {len(found)} file names, such as "
            f"{missing[0] if missing else 'none, for this data has no files'}: type an expression that each name has"
        )
    names = [match.groups() or (match[0],) for match in found if match is not None]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return [number[name] for name in names]


def draw_grouped(
    split: Split, group: Tensor, classes: Tensor, sizes: EpisodeSize, numbers: Numbers
) -> tuple[Tensor, Tensor]:
    """Draw the images [T,K,shot+query+unlabelled] of these classes [T,K]; also return which episodes [T] are sound.

    The groups come in one random order in an episode. Each class takes its support and unlabelled images from the first
    of its groups, in turn, but where it can from no more than half of them; then no class of the episode takes a
    query from a group that any class has used. An episode that lacks queries then is not sound.
    """
    width, support = int(split.count.max()), sizes.shot + sizes.unlabelled
    valid = torch.arange(width) < split.count[classes][..., None]  # [T,K,images]
    image = split.first[classes][..., None] + torch.arange(width).where(valid, torch.tensor(0))
    owner, groups = group[image], int(group.max()) + 1
    rank = numbers(len(classes), groups).argsort(1).argsort(1)[:, None].expand(-1, classes.shape[1], -1)
    order = rank.gather(2, owner) + numbers(*image.shape)  # by group, and at random within it
    keys = _round_robin_keys(order.masked_fill(~valid, float("inf")), support)
    needed = split.count[classes][..., None] - _group_sizes(split, group)[image] < sizes.query
    keys = keys + needed * 2 * width**2  # without this group's images there are too few queries: the last resort
    chosen = keys.topk(support, largest=False).indices
    used = torch.zeros(len(classes), groups, dtype=torch.bool)
    used.scatter_(1, owner.gather(2, chosen).flatten(1), True)
    free = valid & ~used.gather(1, owner.flatten(1)).view_as(owner)
    sound = (free.sum(2) >= sizes.query).all(1)
    queries = numbers(*image.shape).masked_fill_(~free, -1.0).topk(sizes.query).indices
    parts = chosen[..., : sizes.shot], queries, chosen[..., sizes.shot :]
    return image.gather(2, torch.cat(parts, 2)), sound


def _group_sizes(split: Split, group: Tensor) -> Tensor:
    """Return int64 [N], how many images of its class and group each image stands among, itself included."""
    owner = torch.bucketize(torch.arange(len(group)), split.first.unique(), right=True)
    _, pair, count = torch.unique(owner * (int(group.max()) + 1) + group, return_inverse=True, return_counts=True)
    return count[pair]


def _round_robin_keys(order: Tensor, support: int) -> Tensor:
    """Return keys by which the support takes its images: one of each of the first groups in turn, then the others.

    `order` [T,K,images] has the group's number before the point and the image's place within it behind.
    """
    places = order.argsort(2)
    group = order.gather(2, places).floor()
    new = torch.cat([torch.zeros_like(group[..., :1]), (group.diff(dim=2) != 0).double()], 2)
    number = new.cumsum(2)  # 0, 1, ...: which of the class's groups
    start = (torch.arange(order.shape[2]) * new).cummax(2).values
    nth = torch.arange(order.shape[2]) - start  # of its group
    real = ~group.isinf()
    half = ((number * real).amax(2, keepdim=True) + 1).div(2, rounding_mode="floor").clamp(1, support)
    early = (number < half) & real
    keys = torch.where(early, nth * order.shape[2] + number, number + order.shape[2] ** 2)
    keys = keys.masked_fill(~real, float("inf"))
    return torch.empty_like(keys).scatter_(2, places, keys)
