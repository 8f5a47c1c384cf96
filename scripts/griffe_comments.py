"""For the site's Python API: the comment behind a field or a method, where it has no docstring, is its text.

mkdocs.yml names this file to mkdocstrings, which reads the source by griffe and imports nothing.
"""

import tokenize
from functools import cache
from pathlib import Path
from typing import Any

import griffe  # pyright: ignore[reportMissingImports]


class Comments(griffe.Extension):
    """Take the comment on an object's last line as its docstring."""

    def on_attribute_instance(self, *, attr: Any, **_: Any) -> None:
        """Give a field its comment."""
        take(attr)

    def on_function_instance(self, *, func: Any, **_: Any) -> None:
        """Give a method its comment."""
        take(func)


def take(found: Any) -> None:
    """Make a docstring of the comment behind an object that has none; leave it as it is where there is no comment."""
    if found.docstring is None and found.endlineno and (text := comment(found.endlineno, found.filepath)):
        found.docstring = griffe.Docstring(text, lineno=found.endlineno, endlineno=found.endlineno, parent=found)


def comment(number: int, path: Path) -> str:
    """Return the comment on a line of a file, as Markdown; "" where there is none."""
    return comments(path).get(number, "").lstrip("# ").strip().replace("[", "\\[")


@cache
def comments(path: Path) -> dict[int, str]:
    """Return the comments of a file by their lines."""
    with path.open("rb") as file:
        return {t.start[0]: t.string for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT}
