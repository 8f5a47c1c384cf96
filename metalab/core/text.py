"""Names in messages: how many are shown, and which of their letters."""

from collections.abc import Iterable


def first_names(names: Iterable[str], most: int = 10) -> str:
    """Return the first names, at most so many, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def printable(name: str) -> str:
    """Return a file name as text that can be printed and stored, whatever bytes it was made of."""
    return name.encode("utf-8", "backslashreplace").decode()
