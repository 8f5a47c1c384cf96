"""Episodes across domains: queries of one domain, supports of the others."""

import torch
from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.sampling.episode_size import EpisodeSize, Numbers


def check_across(split: Split, asked: Tensor, sizes: EpisodeSize, uneven: bool = False) -> None:
    """Raise UserError where a class has too few images in the query's domain, or in the others.

    asked: bool [N], Split.query_images. uneven: one class may have all queries of an episode (task.query_balance).
    """
    shares = sizes.way if uneven else 1
    for what, chosen, needed in (("shot", ~asked, sizes.shot), ("query", asked, shares * sizes.query)):
        ends = zip(split.first.tolist(), split.count.tolist(), strict=True)
        held = [int(chosen[first : first + count].sum()) for first, count in ends]
        if min(held) < needed:
            name = split.names[held.index(min(held))]
            where = "in task.query_domain" if what == "query" else "in the other domains"
            most = min(held) // (shares if what == "query" else 1)
            why = (
                ", as task.query_balance=dirichlet may give one class all queries" if what == "query" and uneven else ""
            )
            raise UserError(
                f"class {name} has {min(held)} images {where}, and {needed} are needed{why}: "
                + (f"type task.{what}={most}" if most else "type a smaller task.way" if why else "leave the class out")
            )


def draw_across(split: Split, asked: Tensor, classes: Tensor, sizes: EpisodeSize, numbers: Numbers) -> Tensor:
    """Return int64 [T,K,shot+query], images of these classes [T,K]: the queries are of `asked`, the supports are not.

    asked: bool [N], Split.query_images.
    """
    place = torch.arange(int(split.count.max()))
    valid = place < split.count[classes][..., None]  # [T,K,images]
    image = split.first[classes][..., None] + place.where(valid, 0)
    there = asked[image]
    keys = numbers(*image.shape)
    parts = [
        keys.masked_fill(~(valid & allowed), -1.0).topk(size).indices
        for size, allowed in ((sizes.shot, ~there), (sizes.query, there))
    ]
    return image.gather(2, torch.cat(parts, 2))
