"""Queries that are not equally many of each class: Veilleux, Boudiaf, Piantanida, Ben Ayed 2021, sec. 3."""

import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.sampling.episode_size import EpisodeSize, Numbers


def query_counts(way: int, queries: int, episodes: int, dirichlet: float, numbers: Numbers) -> Tensor:
    """Return how many of an episode's queries are of each class, int64 [T,way], each row of the sum `queries`.

    Shares of the classes are drawn from a symmetric Dirichlet distribution, as gamma variables by their inverse
    distribution function; of what rounding down leaves, the largest fractions have one each (what their code's
    rounding comes to, sampler.py:79-110).

    Args:
        way: the number of classes.
        queries: of an episode in all.
        episodes: T.
        dirichlet: concentration, theirs is 2.
        numbers: from the block's generator.
    """
    from scipy.stats import gamma as distribution

    gamma = torch.from_numpy(distribution(dirichlet).ppf(numbers(episodes, way).numpy()))
    wanted = gamma / gamma.sum(1, keepdim=True).clamp(min=1e-300) * queries
    counts = wanted.floor()
    left = queries - counts.sum(1, keepdim=True)
    rank = (wanted - counts).argsort(dim=1, descending=True, stable=True).argsort(1)
    return (counts + (rank < left)).to(torch.int64)


def check_uneven(split: Split, sizes: EpisodeSize) -> None:
    """Raise UserError unless any class can have all queries of an episode."""
    if split.fixed is not None:
        raise UserError("task.query_balance=dirichlet: the data gives its episodes: type task.query_balance=null")
    smallest = int(split.count.argmin())
    images, queries = int(split.count[smallest]), sizes.way * sizes.query
    beside = sizes.shot + sizes.unlabelled
    if images < beside + queries:
        most = (images - beside) // sizes.way
        advice = f"type task.query={most} or less" if most > 0 else "type a smaller task.way"
        raise UserError(
            f"task.query_balance=dirichlet may give one class all {queries} queries of an episode, beside {beside} "
            f"other images, and class {smallest} ({split.names[smallest]}) has {images}: {advice}, or "
            "task.query_balance=null"
        )
