"""One value from YAML against one type annotation, and the words for a misfit."""

import difflib
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union

from metalab.config.nodes import is_dict, is_list
from metalab.core.errors import UserError


def check_type(value: object, hint: Any, key: str) -> Any:
    """Return value as the type that the annotation `hint` says; UserError, naming key, if it is another.

    Whole numbers pass for floats and 1e4 for an int; a bool is never a number, null passes where the hint has None.
    """
    try:
        return _fit(value, hint)
    except TypeError:
        expected, example = describe(hint)
        kinds: dict[object, str] = {str: " (text)", bool: " (a switch)", dict: " (a group)"}
        kind = kinds.get(type(value), "")
        message = f"{key}={format_value(value)}{kind}: expected {expected}, as in {key}={example}"
        raise UserError(message) from None


def _fit(value: Any, hint: Any) -> Any:
    """Return value as the hint's type; TypeError if it is another."""
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _fit_union(value, sorted(args, key=lambda member: member is not type(value)))  # 2 in int | float is int
    if origin is Literal:
        if any(value == member and type(value) is type(member) for member in args):
            return value
    elif origin in (list, tuple, Sequence, Iterable) and is_list(value):
        return _fit_list(value, origin, args)
    elif origin is dict and is_dict(value):
        return {_fit(k, args[0]): _fit(v, args[1]) for k, v in value.items()} if args else value
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif hint is int and type(value) is float and value.is_integer():
        return int(value)
    elif hint is Path and type(value) is str and value.strip():
        return Path(value).expanduser()
    elif hint in (int, float, bool, str, type(None)) and type(value) is hint:  # a bool is no int here
        return value
    raise TypeError


def _fit_union(value: Any, members: list[Any]) -> Any:
    for member in members:
        try:
            return _fit(value, member)
        except TypeError:
            continue
    raise TypeError


def _fit_list(value: list[Any], origin: Any, args: tuple[Any, ...]) -> list[Any] | tuple[Any, ...]:
    if not args:
        return tuple(value) if origin is tuple else value
    if origin is not tuple or args[-1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise TypeError
    fitted = [_fit(item, hint) for item, hint in zip(value, args, strict=True)]
    return fitted if origin is list else tuple(fitted)


def describe(hint: Any) -> tuple[str, str]:
    """Return what a person is told to expect, and an example of it."""
    simple = {
        int: ("a whole number", "5"),
        float: ("a number", "0.1"),
        bool: ("true or false", "true"),
        str: ("text", "name"),
        Path: ("a path", "a/folder"),
        type(None): ("null", "null"),
    }
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint in simple:
        return simple[hint]
    if origin in (Union, UnionType):
        parts = [describe(member) for member in args]
        return " or ".join(text for text, _ in parts), parts[0][1]
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}", str(args[0])
    if origin is tuple and args and args[-1] is not Ellipsis:
        parts = [describe(member) for member in args]
        return f"a list of {len(args)}: {', '.join(p[0] for p in parts)}", f"[{','.join(p[1] for p in parts)}]"
    if origin in (list, tuple, Sequence, Iterable):
        text, example = describe(args[0]) if args else ("anything", "5")
        return f"a list, each item {text}", f"[{example},{example}]"
    if origin is dict:
        text, example = describe(args[1]) if len(args) == 2 else ("anything", "5")
        return f"a group, each value {text}", f"{{a:{example}}}"
    return f"{hint}, which only code can give", "<nothing>"


def suggest(name: str, known: Iterable[str], where: str = "") -> str:
    """Return a sentence that suggests the closest of the known names, or lists them all."""
    prefix = f"{where}." if where else ""
    known = [option for option in known if not option.startswith("_")]
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f" Did you mean {prefix}{close[0]}?"
    return f" There is: {', '.join(sorted(known))}" if known else " It has none at all."


def format_value(value: Any) -> str:
    """Return value as it is typed on the command line."""
    if is_list(value):
        return f"[{','.join(map(format_value, value))}]"
    if is_dict(value):
        return f"{{{','.join(f'{key}:{format_value(item)}' for key, item in value.items())}}}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def check_minimum(where: str, node: object, least: dict[str, int]) -> None:
    """Raise UserError where a field of a dataclass is below its least value; None passes."""
    for key, low in least.items():
        value = vars(node)[key]
        if value is not None and value < low:
            raise UserError(f"{where}.{key}={value}: expected {low} or more, as in {where}.{key}={low}")


def check_positive(key: str, value: float) -> None:
    """Raise UserError unless a hyper-parameter is above 0."""
    if not value > 0:
        raise UserError(f"{key}={value:g}: expected a number above 0")
