"""What the person at the keyboard names in this command: the parts of their own that it may import."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from metalab.cli import hydra_private
from metalab.config import import_policy

KEYS = ("_target_", "objective", "episode_loss", "besides")  # whose values are dotted paths; test_x is x at the test


def named_parts(words: Iterable[str], groups: Iterable[str]) -> frozenset[str]:
    """Return the dotted paths that the words name, or a YAML of a group in a folder that the command line gives.

    A job of Hydra's must be running. Where a path leads out of metalab, the current folder is searched for it, too,
    after all others, so that what lies there hides nothing.
    """
    found = named_by_words(words)
    for place in HydraConfig.get().runtime.config_sources:
        if place.provider in hydra_private.GIVEN:
            source = hydra_private.config_source(place.provider, place.schema, place.path)
            found |= {path for group in groups for node in _options(source, group) for path in _paths(node)}
    here = os.getcwd()
    if here not in sys.path and not all(map(import_policy.own, found)):
        sys.path.append(here)
    return frozenset(found)


def named_by_words(words: Iterable[str]) -> set[str]:
    """Return the dotted paths that the words themselves name."""
    found = set[str]()
    for override in OverridesParser.create().parse_overrides(list(words)):
        found |= _paths({override.key_or_group.rpartition(".")[2]: None if override.is_delete() else override.value()})
    return found


def _options(source: ConfigSource, group: str) -> Iterator[Any]:
    """Give what each YAML of a group, and of the groups in it, holds; one that cannot be read names nothing."""
    if not source.is_group(group):
        return
    for name in source.list(group, ObjectType.CONFIG):
        try:
            yield OmegaConf.to_container(source.load_config(f"{group}/{name}").config, resolve=False)
        except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError):
            continue
    for inside in source.list(group, ObjectType.GROUP):
        yield from _options(source, f"{group}/{inside}")


def _paths(node: Any) -> set[str]:
    """Return the values of KEYS in a nest of mappings and lists."""
    if isinstance(node, Mapping):
        own = {str(value) for key, value in node.items() if str(key).removeprefix("test_") in KEYS}
        return own.union(*map(_paths, node.values()))
    return set().union(*map(_paths, node)) if isinstance(node, list) else set()
