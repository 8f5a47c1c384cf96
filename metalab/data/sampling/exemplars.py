"""Which images of a training are remembered: those by herding, or a uniform sample of all that came by."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def herded(features: Tensor, count: int) -> Tensor:
    """Return the places of a class's images whose mean feature runs nearest to the mean of all.

    Rebuffi et al. 2017 (iCaRL), algorithm 4: p_k = argmin_x |mu - (phi(x) + phi(p_1) + ... + phi(p_{k-1})) / k|, of
    features of length 1, whose mean mu is made of length 1 as well (sec. 2.1); none is taken twice.

    Args:
        features: float [N,D].
        count: how many; all N where there are no more.

    Returns:
        int64 [min(count, N)], the first ones the most telling: fewer are the first of them.
    """
    phi = F.normalize(features.double(), dim=1)
    mu = F.normalize(phi.mean(0), dim=0)
    taken = torch.zeros(len(phi), dtype=torch.bool)
    chosen, total = [], torch.zeros_like(mu)
    for k in range(1, min(count, len(phi)) + 1):
        distance = (mu - (phi + total) / k).square().sum(1)
        chosen.append(int(distance.masked_fill(taken, torch.inf).argmin()))
        taken[chosen[-1]] = True
        total = total + phi[chosen[-1]]
    return torch.tensor(chosen, dtype=torch.int64)


def reservoir(seen: int, coming: int, size: int, numbers: torch.Generator) -> Tensor:
    """Return which of `coming` items take which of `size` places, so that all items so far are there alike.

    Vitter 1985, algorithm R: item t, counted from 1, takes place t while there are any, and then, with probability
    size / t, a random one.

    Args:
        seen: items that came before.
        coming: items that come now.
        size: places.
        numbers: what is drawn from.

    Returns:
        int64 [size], for each place the item in it, 0..coming-1; -1: the one that was there, or none.
    """
    t = torch.arange(seen + 1, seen + coming + 1)
    drawn = (torch.rand(coming, generator=numbers, dtype=torch.float64) * t).long()  # uniform in 0..t-1
    place = torch.where(t <= size, t - 1, drawn)
    item = np.arange(coming)
    held = np.full(size, -1, dtype=np.int64)
    taken = (place < size).numpy()
    held[place.numpy()[taken]] = item[taken]  # of several for one place numpy keeps the last, as the algorithm does
    return torch.from_numpy(held)
