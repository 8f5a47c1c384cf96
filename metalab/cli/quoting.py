"""Paths and patterns on the command line as people type them: what Hydra's grammar cannot read is put in quotes."""

import os
import re
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import OverrideParseException

from metalab.core.errors import UserError

PATHS = re.compile(
    r"\+*(data\.(members\.[^.]+\.)?(root|cache|labels|source_root|target_root)|support|images|resume|run"
    r"|train\.(init|boost)|eval\.baseline|reg\.distill\.teacher|reg\.replay\.memory|backbone\.(weights|classes)"
    r"|hydra\.(run|sweep)\.(sub)?dir)"
)
PATTERNS = re.compile(r"\+*data\.(members\.[^.]+\.)?group")
DIGITS, NESTED = 1000, 20  # of a number; of lists, groups and keys in each other
NAME, PATH = 255, 4095  # bytes that Linux takes at most
ITEMS = re.compile(r"\[.*?\](?=,|$)|[^,]+")  # of a sweep: lists, and what else stands between commas


def quote_override(word: str, multirun: bool) -> str:
    """Return `word`, the value of a path or pattern in quotes where Hydra would refuse or misread it as it stands.

    A list stays one, and in a multirun so does a sweep: their items are quoted. What is in quotes stays as typed.
    UserError for a word that would end Hydra's reader, or the system, in the middle of the work.
    """
    _refuse_unreadable(word)
    key, equals, value = word.partition("=")
    path, pattern = PATHS.fullmatch(key), PATTERNS.fullmatch(key)
    if not (equals and value and (path or pattern)) or value[0] in "'\"":
        return word
    parsed = _parsed(word)
    if pattern:  # it has what Hydra takes for escapes, lists and calls; and without -m no comma can be a sweep
        as_typed = parsed is not None and (parsed.is_sweep_override() if multirun else value.lower() == "null")
        return word if as_typed else f"{key}={_quoted(value)}"
    if parsed is not None:
        whole = not multirun and parsed.is_sweep_override() and Path(value).expanduser().exists()
        return f"{key}={_quoted(value)}" if whole else word
    if Path(value).expanduser().exists():
        return f"{key}={_quoted(value)}"
    parts = ITEMS.findall(value) if multirun else [value]
    return f"{key}={','.join(_item(key, part) for part in parts)}"


def _refuse_unreadable(word: str) -> None:
    """Raise UserError for a word that no reader takes: null bytes, endless numbers, nests and names."""
    shown = repr(word if len(word) <= 60 else f"{word[:60]}...")
    key, _, value = word.partition("=")
    if "\0" in word:
        raise UserError(f"{shown} holds a null byte, which no value and no path may: type it again")
    if max(map(len, re.findall(r"\d+", value)), default=0) > DIGITS:
        raise UserError(f"{shown} holds a number of more than {DIGITS} digits, and none is so large: type fewer")
    depth = deepest = 0
    for letter in value:
        depth += (letter in "[{(") - (letter in "]})")
        deepest = max(deepest, depth)
    if deepest > NESTED or key.count(".") > NESTED:
        raise UserError(f"{shown} is nested more than {NESTED} deep, and no setting is: type it flatter")
    if PATHS.fullmatch(key):
        names = re.split(r"[/,\[\]]", value)
        if max(map(len, map(os.fsencode, names))) > NAME or max(map(len, value.split(","))) > PATH:
            raise UserError(
                f"{shown} is longer than a path may be, {NAME} bytes a name and {PATH} in all: there is no such file"
            )


def _item(key: str, value: str) -> str:
    """Return one value in quotes, if it needs them, or a list with its items so."""
    if _parsed(f"{key}={value}") is not None:
        return value
    if value[0] == "[" and value[-1] == "]":
        return f"[{','.join(_item(key, item) for item in _listed(value[1:-1]))}]"
    return _quoted(value)


def _listed(inner: str) -> list[str]:
    """Return the items of a list: a comma parts two of them, but where a path that is there has it in its name."""
    parts, items = inner.split(","), list[str]()
    while parts:
        ends = range(len(parts), 1, -1)
        end = next((n for n in ends if os.path.exists(os.path.expanduser(",".join(parts[:n])))), 1)
        items.append(",".join(parts[:end]))
        parts = parts[end:]
    return items


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_overrides([word])[0]
    except OverrideParseException:
        return None


def _quoted(value: str) -> str:
    return QuotedString(value, Quote.single).with_quotes()
