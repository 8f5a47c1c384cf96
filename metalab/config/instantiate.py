"""The only door from configuration to objects: find conf/ and runs, check every key and type, build dataclasses."""

import dataclasses
import importlib
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metalab.config import import_policy
from metalab.config.moved_names import rename_moved
from metalab.config.nodes import is_mapping
from metalab.config.validate import check_type, describe, format_value, suggest
from metalab.core.errors import UserError

T = TypeVar("T")


def build(node: Any, where: str, **given: Any) -> Any:
    """Build the dataclass that a group's `_target_` names from the group's other keys and the given fields.

    Args:
        node: the group, a mapping with the key `_target_`.
        where: its place in the configuration, "algo" or "reg.l2", which every message names.
        given: fields that metalab sets itself, as way; the group may not hold them.

    Returns:
        The object.

    Raises:
        UserError: for a class that does not exist or may not be imported, an unknown or missing key, a value of another
            type or out of range.
    """
    values = plain_group(node, where)
    target = values.pop("_target_", None)
    if not isinstance(target, str) or target == "???":
        raise UserError(
            f"{where}._target_={format_value(target)}: expected the dotted path of a dataclass, as package.Class"
        )
    cls = locate(target, f"{where}._target_")
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise UserError(f"{where}._target_={target}: expected a dataclass; decorate it with @dataclasses.dataclass")
    return _construct(cls, values, where, given)


def settings(cls: type[T], node: Any, where: str) -> T:
    """Build a dataclass of a group that has no `_target_`.

    Args:
        cls: the dataclass.
        node: the group, a mapping.
        where: its place in the configuration, "task", which every message names.

    Returns:
        The object.

    Raises:
        UserError: for an unknown or missing key, a value of another type or out of range.
    """
    return _construct(cls, plain_group(node, where), where, {})


def locate(dotted: str, where: str) -> Any:
    """Return the object at a dotted path; `where` is the key that named it.

    A name of an older version leads to what it is called now. UserError where there is none, or where the command may
    not import it (import_policy.py).
    """
    dotted = rename_moved(dotted)
    module, _, name = dotted.rpartition(".")
    if not module or not all(part.isidentifier() for part in dotted.split(".")):
        raise UserError(f"{where}={dotted}: expected a dotted path, as package.module.Name")
    import_policy.check(dotted, where)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, what it imports is not
        raise UserError(
            f"{where}={dotted}: there is no module {error.name!r}; install it, or put its folder on PYTHONPATH"
        ) from None
    if not hasattr(found, name):
        raise UserError(f"{where}={dotted}: module {module} has no {name!r}.{suggest(name, dir(found))}")
    import_policy.check_found(getattr(found, name), dotted, where)
    return getattr(found, name)


def public_path(cls: type) -> str:
    """Return the dotted path that files name a class by: metalab.engines.Vectorized, wherever in there it is written.

    A class that no package of metalab shows, as one of the user's own, is named by its module.
    """
    package = ".".join(cls.__module__.split(".")[:2])
    if package.startswith("metalab.") and getattr(importlib.import_module(package), cls.__name__, None) is cls:
        return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def plain_group(node: Any, where: str) -> dict[str, Any]:
    """Return a config node, or a mapping that holds some, as plain Python with nothing left to resolve."""
    try:
        plain = _resolved(node)
        if is_mapping(plain):
            return {str(key): _resolved(value) for key, value in plain.items()}
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {error}") from error
    raise UserError(f"{where}={format_value(plain)}: expected a group of settings, each as {where}.<key>=<value>")


def _resolved(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _construct(cls: type[T], values: dict[str, Any], where: str, given: dict[str, Any]) -> T:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls)) if field.init}
    for name in given:
        if name not in fields:
            raise UserError(
                f"{where}: {cls.__module__}.{cls.__qualname__} lacks the field {name!r}, which metalab sets"
            )
        if name in values:
            raise UserError(f"{where}.{name}={format_value(values[name])}: metalab sets this itself; remove the key")
    settable = [name for name in fields if name not in given]
    for key in values:
        if key not in settable:
            raise UserError(
                f"{where}.{key}={format_value(values[key])}: {cls.__name__} has no such setting."
                f"{suggest(key, settable, where)}"
            )
    checked = {}
    for name in settable:
        field, key, value = fields[name], f"{where}.{name}", values.get(name, "???")
        if value != "???":
            checked[name] = check_type(value, hints[name], key)
        elif name in values or (field.default, field.default_factory) == (dataclasses.MISSING, dataclasses.MISSING):
            expected, example = describe(hints[name])
            raise UserError(f"{key} is not set: expected {expected}, as in {key}={example}")
    return cls(**checked, **given)


def parts_of(node: Mapping[str, Any], *kinds: type) -> list[dict[str, Any]]:
    """Split a node by the fields of the given dataclasses; what belongs to none of them comes last."""
    names = [{f.name for f in fields(kind)} for kind in kinds]
    taken = set[str]().union(*names)
    return [{k: v for k, v in node.items() if k in name} for name in names] + [
        {k: v for k, v in node.items() if k not in taken}
    ]


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one of dotted keys."""
    items: dict[str, Any] = {}
    for key, value in node.items():
        items |= flat(value, f"{prefix}{key}.") if is_mapping(value) else {f"{prefix}{key}": value}
    return items


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain Python with nothing left to resolve."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
