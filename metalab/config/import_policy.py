"""What a configuration may import: metalab's own parts, and what the command itself names.

A run's folder is data, not a program. A class or function that its config.yaml or a checkpoint names is imported only
where it is metalab's, or where this very command names the same: a word of the command line, or a YAML of a folder
that the command line gives (--config-dir).
"""

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from metalab.core.errors import UserError

PARTS = ("algorithms", "attacks", "data", "engines", "ingredients", "models", "regularizers", "training.optimizers")
ROOMS = tuple(f"metalab.{part}." for part in PARTS)
_named: frozenset[str] | None = None  # what the command names; None: no command runs, the calling program is trusted


@contextmanager
def allow_only(named: frozenset[str]) -> Generator[None]:
    """Let nothing be imported meanwhile but metalab's own parts and the dotted paths that the command names."""
    global _named
    before, _named = _named, named
    try:
        yield
    finally:
        _named = before


def own(dotted: str) -> bool:
    """Whether a dotted path leads into a room of metalab's parts."""
    return dotted.startswith(ROOMS)


def check(dotted: str, where: str) -> None:
    """Raise UserError, before anything is imported, unless `dotted`, the value of the key `where`, may be."""
    if _named is not None and not own(dotted) and dotted not in _named:
        raise UserError(_refused(dotted, where))


def check_found(found: Any, dotted: str, where: str) -> None:
    """Raise UserError where a path into metalab's parts leads to what one of them has imported from elsewhere."""
    home = inspect.getmodule(found)
    inside = home is not None and f"{home.__name__}.".startswith("metalab.")
    if _named is not None and dotted not in _named and not inside:
        raise UserError(_refused(dotted, where))


def _refused(dotted: str, where: str) -> str:
    return (
        f"{where}={dotted}: it is no part of metalab, and this command does not name it. A run's folder is data, from "
        f"which no module is imported. Where it is your own, name it: --config-dir FOLDER with the YAML that has it, "
        f"or {where}={dotted}"
    )
