"""What the standard library has no name for."""

from collections import deque
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def last(items: Iterable[Item]) -> Item:
    """Return the last of one item or more; those before it are not kept, as `*_, item = items` keeps them."""
    return deque(items, maxlen=1).pop()
