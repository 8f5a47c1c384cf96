"""Random numbers that are the same in every episode, whatever device and batch: numpy's, for vmap draws anew."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)
def normal_numbers(*shape: int) -> np.ndarray:
    """Return standard normal numbers, float32, the same for a shape."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def shuffled_batches(images: int, batch: int, steps: int) -> np.ndarray:
    """Return mini-batches of images 0..images-1, in a new order each round, the same for the same numbers.

    Args:
        images: how many there are.
        batch: how many a step has, at most all.
        steps: how many mini-batches.

    Returns:
        int64 [steps,min(batch,images)].
    """
    size, draw = min(batch, images), np.random.default_rng(0)
    rounds = [draw.permutation(images) for _ in range(-(-steps * size // images))]
    return np.concatenate([np.empty(0, dtype=np.int64), *rounds])[: steps * size].reshape(steps, size)


@lru_cache(maxsize=2)
def uniform_numbers(*shape: int) -> np.ndarray:
    """Return numbers uniform in 0..1, float32, the same for a shape."""
    return np.random.default_rng(0).random(shape, dtype=np.float32)
