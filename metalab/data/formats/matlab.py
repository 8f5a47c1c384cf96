"""The matlab files that some data sets come with."""

import zlib
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from metalab.core.errors import UserError


def arrays(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Return the arrays of these names; UserError where the file has none, or no numbers in one."""
    try:
        held = loadmat(path, variable_names=names)
        found = [np.asarray(held[name]) for name in names]
    except (MatReadError, OSError, zlib.error, ValueError, LookupError, TypeError, NotImplementedError) as error:
        raise UserError(
            f"{path} is no sound matlab file with {' and '.join(names)} ({error}). Fetch it anew."
        ) from error
    for name, array in zip(names, found, strict=True):
        if array.dtype.kind not in "uif":
            raise UserError(f"{path}: {name} is {array.dtype} {array.shape}, numbers are expected. Fetch it anew.")
    return found
