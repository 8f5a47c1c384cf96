"""Runs of older versions: the settings that came after them take the value that reproduces what they did.

A key that is new in a part of the configuration gets this value as the default of its dataclass's field, whatever
conf/*.yaml says for new runs: where an older run is gone on with or evaluated, its parts are taken as they are, and
what they lack is the field's default. tests/old_runs holds the versions to it.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from metalab.config.moved_names import rename_moved
from metalab.config.nodes import is_mapping
from metalab.config.schema import Eval, Train

ROOTS = {"train": Train, "eval": Eval}  # what is merged with today's YAML, key by key; groups are replaced as a whole


def upgrade_config(node: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the configuration of a run, plain, as today's version reads it.

    Classes are named by where they are now, and the keys of train and eval that are newer than the run are there.
    """
    whole = rename_moved(node)
    for name, cls in ROOTS.items():
        later = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
        later |= {field.name: field.default_factory() for field in fields(cls) if field.default_factory is not MISSING}
        if is_mapping(given := whole.get(name, {})):
            whole[name] = later | dict(given)
    return whole


def read_by_training(key: str) -> bool:
    """Whether a dotted key is one that training reads: not what all attacks of metalab eval share, nor its run."""
    group, *names = key.split(".")
    return group != "run" and not (group == "attack" and len(names) < 2)
