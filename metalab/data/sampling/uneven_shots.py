"""Supports with unequal numbers of images a class, as in long-tailed data: task.shots."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metalab.data.sampling.episode_size import Numbers


def uneven_support(image: Tensor, shots: Sequence[int], numbers: Numbers) -> tuple[Tensor, Tensor]:
    """Return the first images of each class, so many of each as one of the shots says, and their labels, [T,S] each.

    Which class has how many is drawn anew for each episode: an algorithm cannot learn it.

    Args:
        image: int64 [T,way,max(shots)], indices of images.
        shots: of the classes, in any order.
        numbers: from the block's generator.
    """
    episodes, way, most = image.shape
    counts = torch.tensor(shots)[numbers(episodes, way).argsort(1)]  # [T,way]
    taken = torch.arange(most) < counts[..., None]
    label = torch.arange(way)[:, None].expand(taken.shape)[taken]
    return image[taken].view(episodes, -1), label.view(episodes, -1)
