"""The matlab files that some data sets come with."""

import zlib
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from metalab.core.errors import UserError

UNSOUND = (MatReadError, OSError, zlib.error, ValueError, LookupError, TypeError, NotImplementedError)  # loadmat's


def arrays(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Return the arrays of these names; UserError where the file has none, or no numbers in one."""
    try:
        held = loadmat(path, variable_names=names)
        found = [np.asarray(held[name]) for name in names]
    except UNSOUND as error:
        raise UserError(
            f"{path} is no sound matlab file with {' and '.join(names)} ({error}). Fetch it anew."
        ) from error
    for name, array in zip(names, found, strict=True):
        if array.dtype.kind not in "uif":
            raise UserError(f"{path}: {name} is {array.dtype} {array.shape}, numbers are expected. Fetch it anew.")
    return found


def fields(path: Path, name: str, keys: tuple[str, ...]) -> list[tuple[object, ...]]:
    """Return these fields of each entry of an array of structures: text as str, a number as int, all else as None.

    Raises:
        UserError: where the file has no such array, or an entry lacks a field.
    """
    try:
        held = np.atleast_1d(loadmat(path, variable_names=(name,), squeeze_me=True)[name])
        return [tuple(_plain(entry[key]) for key in keys) for entry in held]
    except UNSOUND as error:
        raise UserError(f"{path} is no sound matlab file with {name} of {' and '.join(keys)} ({error}).") from error


def _plain(value: object) -> str | int | None:
    if isinstance(value, str):
        return str(value)
    return int(value) if isinstance(value, int | np.integer) else None
