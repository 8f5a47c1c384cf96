"""Import learn2learn without its gym, text and vision parts, which need packages nobody here uses.

learn2learn's own __init__ imports all of them (2.5 s, and gym must be installed). Stand-ins in sys.modules load the
real package when an attribute is first asked for. Nothing else in metalab imports learn2learn but through this file,
which says what its parts are: it has no types.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType


class _OnDemand(ModuleType):
    """A package that is imported when it is first used."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        sys.modules.pop(self.__name__, None)
        return getattr(importlib.import_module(self.__name__), name)


def _stand_in(name: str, folder: str) -> None:
    if name not in sys.modules:
        package = _OnDemand(name)
        package.__path__ = [f"{folder}/{name.rpartition('.')[2]}"]
        sys.modules[name] = package


_spec = find_spec("learn2learn")
if _spec is None or not _spec.submodule_search_locations:
    raise ImportError("learn2learn 0.2.0 is not installed; the README's first screen says how")
for _part in ("gym", "text", "vision"):
    _stand_in(f"learn2learn.{_part}", _spec.submodule_search_locations[0])

import learn2learn  # noqa: E402
from learn2learn.nn import KroneckerLinear  # noqa: E402
from learn2learn.optim.transforms import KroneckerTransform, MetaCurvatureTransform  # noqa: E402
from learn2learn.utils import clone_module  # noqa: E402

version: str = learn2learn.__version__
__all__ = ["KroneckerLinear", "KroneckerTransform", "MetaCurvatureTransform", "clone_module", "learn2learn", "version"]
