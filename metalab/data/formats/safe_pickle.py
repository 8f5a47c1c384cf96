"""Reading the pickles that data sets were published as, without running what may be in them."""

import _codecs
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from metalab.core.errors import UserError


def _harmless() -> dict[tuple[str, str], Any]:
    """Return all that arrays pickled by any numpy ask for, by module and name."""
    rebuild, scalar = np.empty(0).__reduce__()[0], np.float32(0).__reduce__()[0]
    from_buffer: Any = np.empty(0).__reduce_ex__(5)[0]
    table: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _codecs.encode,
        ("__builtin__", "xrange"): range,
    }
    for core in ("numpy.core", "numpy._core"):  # the name before and since numpy 2
        table[f"{core}.multiarray", "_reconstruct"] = rebuild
        table[f"{core}.multiarray", "scalar"] = scalar
        table[f"{core}.numeric", "_frombuffer"] = from_buffer
    plain = (range, set, frozenset, bytearray, complex, slice)
    return table | {(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in plain}


class _Harmless(pickle.Unpickler):
    """Unpickle numpy arrays and plain containers, and refuse whatever could run code."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 wrote the first of these files
        self.known = _harmless()

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in self.known:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which no array needs")
        return self.known[module_name, global_name]


BROKEN = (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError)


def plain(raw: BinaryIO, where: Path, what: str) -> Any:
    """Return what a pickle of arrays, lists and dictionaries holds; UserError, naming it as no pickle of `what`."""
    try:
        return _Harmless(raw).load()
    except BROKEN as error:
        raise foreign(where, what, error) from error


def foreign(where: Path, what: str, error: Exception) -> UserError:
    """Return the error that says that a pickle is not what it should be."""
    return UserError(f"{where} is no pickle of {what} ({error}); nothing of it was used. Fetch it anew.")


def images_and_rows(path: Path) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Return images uint8 [N,H,W,3] and the rows of each class."""
    with open(path, "rb") as file:
        held = plain(file, path, "miniImageNet")
    try:
        images = held["image_data"]
        rows = {str(wnid): [int(i) for i in many] for wnid, many in held["class_dict"].items()}
        sound = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
        sound = sound and all(0 <= i < len(images) for many in rows.values() for i in many)
    except BROKEN as error:
        raise foreign(path, "miniImageNet", error) from error
    if not sound:
        raise UserError(f"{path}: expected image_data uint8 [N,84,84,3] and class_dict with rows of it.")
    return images, rows
