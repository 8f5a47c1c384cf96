"""Which images make an episode: its indices, drawn for many episodes at once by tensor operations."""

from typing import NamedTuple

import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import FixedEpisodes, Split
from metalab.data.sampling.across_domains import draw_across
from metalab.data.sampling.class_families import shares
from metalab.data.sampling.episode_size import EpisodeSize, Numbers
from metalab.data.sampling.grouped import draw_grouped
from metalab.data.sampling.uneven_queries import query_counts
from metalab.data.sampling.uneven_shots import uneven_support

TRIES = 50  # draws of a block before it is said that data.group asks for too much


class EpisodeIndices(NamedTuple):
    """What T episodes are made of: N images, the support first, then the queries, the unlabelled, each shuffled."""

    classes: Tensor  # int64 [T,way+distractors], class of each label
    image: Tensor  # int64 [T,N], index into split.images
    label: Tensor  # int64 [T,N], 0..way-1; the unlabelled have theirs, too, distractors from way on
    turn: Tensor  # int64 [T,N], quarter turns, 0..3, counter-clockwise


def draw_indices(
    split: Split, sizes: EpisodeSize, episodes: int, generator: torch.Generator, dirichlet: float | None = None
) -> EpisodeIndices:
    """Draw the indices of so many episodes; the split must have what the sizes ask for.

    dirichlet: concentration of the classes' shares of the queries; None: as many of each.
    """

    def numbers(*shape: int) -> Tensor:  # float64: two equal numbers, whose order nobody defines, do not happen
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    way, shot, query, unlabelled, _, shots = sizes
    if dirichlet is None:
        classes, image = _chosen(split, sizes, episodes, numbers)
        queries, of = image[:, :way, shot : shot + query].flatten(1), torch.arange(way * query) // query
        of = of.expand_as(queries)
    else:
        classes, image, queries, of = _uneven(split, sizes, episodes, numbers, dirichlet)
    turn = torch.zeros_like(classes) if split.turns is None else split.turns[classes]
    if split.random_turns:
        turn = (turn + torch.randint(4, classes.shape, generator=generator)) % 4
    known, known_of = image[:, :way, :shot].flatten(1), torch.arange(way * shot) // shot
    known_of = known_of.expand_as(known)
    if shots is not None:
        known, known_of = uneven_support(image[:, :way, :shot], shots, numbers)
    parts = [known, queries]
    # Shuffled within the support and within the query: Reptile walks through the support in mini-batches.
    order = [numbers(*part.shape).argsort(1) for part in parts]
    label = [known_of.gather(1, order[0]), of.gather(1, order[1])]
    if unlabelled:
        parts.append(image[..., image.shape[2] - unlabelled :].flatten(1))
        order.append(numbers(*parts[2].shape).argsort(1))
        label.append(order[2] // unlabelled)
    joined = torch.cat(label, 1)
    image = torch.cat([part.gather(1, o) for part, o in zip(parts, order, strict=True)], 1)
    return EpisodeIndices(classes, image, joined, turn.gather(1, joined))


def _uneven(
    split: Split, sizes: EpisodeSize, episodes: int, numbers: Numbers, dirichlet: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what _chosen does, of sizes that leave a class all queries, and the queries' images and labels [T,N]."""
    most = sizes.way * sizes.query
    classes, image = _chosen(split, sizes._replace(query=most), episodes, numbers)
    taken = torch.arange(most) < query_counts(sizes.way, most, episodes, dirichlet, numbers)[..., None]  # [T,way,most]
    label = torch.arange(sizes.way)[:, None].expand(taken.shape)[taken]
    queries = image[:, : sizes.way, sizes.shot : sizes.shot + most][taken]
    return classes, image, queries.reshape(episodes, most), label.reshape(episodes, most)


def _chosen(split: Split, sizes: EpisodeSize, episodes: int, numbers: Numbers) -> tuple[Tensor, Tensor]:
    """Return the classes [T,way+distractors] in random order, and of each its shot + query + unlabelled images."""
    classes = _classes(split, sizes, episodes, numbers)
    if split.query_images is not None:
        return classes, draw_across(split, split.query_images, classes, sizes, numbers)
    if split.group is None:
        return classes, _draw_images(split, classes, sizes, numbers)
    image, sound = draw_grouped(split, split.group, classes, sizes, numbers)
    for _ in range(TRIES):
        if sound.all():
            return classes, image
        again = _classes(split, sizes, episodes, numbers)
        new, better = draw_grouped(split, split.group, again, sizes, numbers)
        better &= ~sound
        classes = torch.where(better[:, None], again, classes)
        image = torch.where(better[:, None, None], new, image)
        sound |= better
    raise UserError(
        f"data.group keeps the images of a group on one side of an episode, and in {TRIES} draws no {sizes.way} "
        f"classes had {sizes.shot + sizes.unlabelled} images each of some groups and {sizes.query} of the others: "
        "type a smaller task.shot, task.query or task.way"
    )


def _classes(split: Split, sizes: EpisodeSize, episodes: int, numbers: Numbers) -> Tensor:
    keys, least = numbers(episodes, len(split.ids)), -1.0
    if split.resampling is not None and split.resampling.classes is not None:
        # weighted, without replacement: the largest u^(1/w) (Efraimidis & Spirakis 2006), by their logarithms
        keys, least = keys.log() / split.resampling.classes, -torch.inf
    if split.families is not None:
        share = shares(split.families, sizes.way + sizes.distractors).cumsum(0)
        family = torch.searchsorted(share, numbers(episodes) * share[-1], right=True)
        keys.masked_fill_(split.families.family != family[:, None], least)
    return keys.topk(sizes.way + sizes.distractors).indices


def _draw_images(split: Split, classes: Tensor, sizes: EpisodeSize, numbers: Numbers) -> Tensor:
    keys = numbers(*classes.shape, int(split.count.max()))
    keys.masked_fill_(torch.arange(keys.shape[2]) >= split.count[classes][..., None], -1.0)
    return split.first[classes][..., None] + keys.topk(sizes.a_class).indices


def fixed_indices(split: Split, fixed: FixedEpisodes) -> EpisodeIndices:
    """Return the indices of the fixed episodes, in their order."""
    way = fixed.classes.shape[1]
    image = split.first[fixed.classes][..., None] + torch.arange(fixed.shot + fixed.query)
    label = torch.arange(way)[:, None].expand(way, fixed.shot + fixed.query)
    image, label = (
        torch.cat([t[..., : fixed.shot].flatten(-2), t[..., fixed.shot :].flatten(-2)], -1) for t in (image, label)
    )
    return EpisodeIndices(fixed.classes, image, label.expand_as(image), torch.zeros_like(image))
