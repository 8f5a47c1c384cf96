"""Random numbers that are the same in every episode, whatever device and batch: numpy's, for vmap draws anew."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)
def normal_numbers(*shape: int) -> np.ndarray:
    """Return standard normal numbers, float32, the same for a shape."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@lru_cache(maxsize=2)
def uniform_numbers(*shape: int) -> np.ndarray:
    """Return numbers uniform in 0..1, float32, the same for a shape."""
    return np.random.default_rng(0).random(shape, dtype=np.float32)
