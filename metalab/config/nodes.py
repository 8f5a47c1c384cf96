"""What kind of node a value from YAML is, said so that a type checker knows what it holds: anything."""

from collections.abc import Mapping
from typing import Any, TypeGuard


def is_mapping(node: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether a node is a mapping, OmegaConf's included."""
    return isinstance(node, Mapping)


def is_dict(node: object) -> TypeGuard[dict[Any, Any]]:
    """Whether a node is a plain dictionary."""
    return isinstance(node, dict)


def is_list(node: object) -> TypeGuard[list[Any]]:
    """Whether a node is a plain list."""
    return isinstance(node, list)
