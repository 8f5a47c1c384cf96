"""The words behind `metalab data VERB`, looked at before anything is read or made."""

import os

from metalab.cli.quoting import quote_override
from metalab.config.paths import given_path
from metalab.core.errors import UsageError, UserError


def check_arguments(verb: str, words: list[str]) -> list[str]:
    """Return the words with quotes where Hydra needs them.

    UsageError for a word that `list` does not take, UserError where out= cannot be written.
    """
    if verb == "list" and (words[:1] != ["--config-dir"] or len(words) > 2) and words:
        word = next((word for word in words if "=" in word), words[-1])
        raise UsageError(
            f"'{word}': metalab data list takes --config-dir FOLDER alone; to look into another cache type "
            "METALAB_CACHE=FOLDER metalab data list"
        )
    if verb == "clean":
        if wrong := next((word for word in words if "=" in word or word.startswith("-")), None):
            raise UsageError(
                f"'{wrong}': metalab data clean takes names of stores alone; to look into another cache type "
                "METALAB_CACHE=FOLDER metalab data clean"
            )
        return words
    for word in words:
        key, _, value = word.partition("=")
        if key == "out" and "=" in word and verb in ("check", "show"):
            _check_out(verb, value)
    return [quote_override(word, multirun=False) for word in words]


def _check_out(verb: str, out: str) -> None:
    """Raise UserError where out= is no folder (check) or no file (show) that can be made and written to."""
    path = given_path(out, "out", "FOLDER" if verb == "check" else "picture.png").absolute()
    if verb == "show" and path.is_dir():
        raise UserError(f"out={out} is a folder, the name of a picture is expected: type out={path / 'picture.png'}")
    folder = path if verb == "check" else path.parent
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise UserError(f"out={out}: {there} is no folder, and nothing can be written into it: type another out=")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"out={out}: you may not write to {there}: type another out=")
