"""The root of a configuration, before any part of it is built: its keys, its seed, where its data lie."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from metalab.config.paths import given_path
from metalab.config.validate import check_type, format_value, suggest
from metalab.core.errors import UserError


def validate_root(cfg: DictConfig, also: tuple[str, ...] = ()) -> None:
    """Check the root keys, and make data.root and data.cache absolute, so that they are found from any folder.

    also: further keys that the command has.
    """
    known = {"algo", "data", "backbone", "reg", "attack", "engine", "optim", "task", "experiment"}
    known |= {"train", "eval", "seed", "device", "resume", "run", "ensemble", *also}
    for key in cfg:
        if key not in known:
            raise UserError(f"{key}: there is no such setting.{suggest(str(key), known)}")
    if not 0 <= check_type(cfg.seed, int, "seed") < 2**64:
        raise UserError(f"seed={cfg.seed}: expected a whole number, 0 or more and below 2^64")
    for data in (_group(cfg.data, "data"), *_members(cfg.data)):
        for key in ("root", "cache"):
            if data.get(key) is not None:
                given_path(str(data[key]), f"data.{key}", "/path/to/a/folder")
                data[key] = str(Path(str(data[key])).expanduser().absolute())
        for key in ("source_root", "target_root"):  # of two data sets that are domains; several sources have a list
            if data.get(key) is not None:
                data[key] = _absolute(data[key], f"data.{key}")


def _absolute(value: Any, key: str) -> Any:
    """Return a path, or each of a list of paths, absolute; null stays."""
    if OmegaConf.is_list(value):
        return [_absolute(each, key) for each in value]
    return value if value is None else str(given_path(str(value), key, "/path/to/a/folder").absolute())


def _members(data: DictConfig) -> list[Any]:
    """Return the settings of a union's members, none where there is no union; UserError where one has none."""
    members: Any = data.get("members") or {}
    return [_group(node, f"data.members.{name}") for name, node in _group(members, "data.members").items()]


def _group(node: Any, where: str) -> Any:
    """Return a node that is a group of settings, else raise UserError."""
    if not OmegaConf.is_dict(node) and node != {}:
        raise UserError(
            f"{where}={format_value(node)}: expected a group of settings, as +data@data.members.omniglot=omniglot"
        )
    return node
