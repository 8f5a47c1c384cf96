"""Paths as a person types them (never empty, ~ for the home folder), and where the shipped YAML lies."""

import re
from argparse import ArgumentTypeError
from pathlib import Path

from metalab.core.errors import UserError

FOLDERS = (  # keys of the command line
    *("run", "resume", "train.init", "train.boost", "eval.baseline", "reg.distill.teacher", "reg.replay.memory"),
    *("hydra.run.dir", "hydra.sweep.dir"),
)
HOME = re.compile(r"(?:^|(?<=[\[,'\"]))~[^/,\]'\"]*(?=[/,\]'\"]|$)")  # ~ or ~name at the beginning of a value or item


def given_path(value: str | Path, key: str, example: str) -> Path:
    """Return a path that was typed as the value of `key`, its ~ in full; UserError for an empty one.

    An empty path is the trace of a shell variable that is not set, and would mean the current folder.
    """
    if not str(value).strip():
        raise UserError(f"{key}= is empty: expected a path (is a shell variable not set?); type {key}={example}")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # no home folder, or no such user's
        raise UserError(f"{key}={value}: {error}; type the whole path, as {key}={example}") from error


def at_home(word: str) -> str:
    """Return a word of the command line, key=value, with ~ in full where the value is a folder, or some of them.

    UserError for an empty one to which Hydra would write.
    """
    key, equals, value = word.partition("=")
    if key not in FOLDERS or not equals:
        return word
    if key.startswith("hydra."):
        given_path(value.strip("'\""), key, "outputs/train/mine")
    return f"{key}={HOME.sub(lambda found: str(given_path(found[0], key, '/path/to/a/folder')), value)}"


def typed(value: str) -> Path:
    """Return a path for argparse (type=typed), its ~ in full; ArgumentTypeError for an empty one."""
    if not value.strip():
        raise ArgumentTypeError("expected a path, and it is empty (is a shell variable not set?)")
    return Path(value).expanduser()


def conf_dir() -> Path:
    """Return the folder of the shipped YAML: inside the package when it was installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"
