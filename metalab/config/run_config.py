"""A run's config.yaml as data: metalab's own settings as plain values, and nothing that Hydra would obey."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metalab.config.nodes import is_dict, is_list, is_mapping
from metalab.config.validate import format_value
from metalab.core.errors import UserError

NEEDED = ("algo", "data", "backbone", "task")
NODES = (*NEEDED, "reg", "attack", "engine", "optim", "train", "eval")  # groups of settings
VALUES = ("seed", "device")
LARGEST = 2_000_000  # bytes; the largest that metalab writes has some thousands
DEEPEST = 20  # mappings and lists inside each other
logger = logging.getLogger("metalab")


def read(folder: Path) -> dict[str, Any]:
    """Return metalab's own settings of a run; UserError where there are none, or none that are whole.

    What else the file holds is left out: a node `hydra`, and a list of defaults, which Hydra would take for commands.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} holds no config.yaml: give the folder of a run of metalab train")
    try:
        _refuse_expansion(path)
        held: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}. Its best.pt holds the same settings") from error
    missing = [group for group in NEEDED if not is_dict(held) or group not in held]
    if missing or not is_dict(held):
        raise UserError(f"{path} is cut short or not a run's: {', '.join(missing)} is missing")
    for group in NODES:
        if group in held and not is_dict(held[group]):
            raise UserError(
                f"{path}: {group}={format_value(held[group])}: expected a group of settings, as the run wrote it"
            )
    own = {key: held[key] for key in (*NODES, *VALUES) if key in held}
    own = {key: _without_defaults(value) for key, value in own.items()}
    _refuse_expressions(path, own)
    return _caches_here(own)


def _refuse_expansion(path: Path) -> None:
    """Raise ValueError for a file that a reader would blow up: large, deep, or with references to its own parts."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it has {path.stat().st_size:,} bytes, {LARGEST:,} at most are expected")
    depth = 0
    parser = cast(Any, yaml)  # its stub leaves out what parse reads and gives
    for event in parser.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise ValueError("it has references or is nested too deep, which no run's is")


def _without_defaults(node: Any) -> Any:
    """Return a group without what Hydra takes for a list of further options."""
    return {key: value for key, value in node.items() if key != "defaults"} if is_dict(node) else node


def _refuse_expressions(path: Path, own: dict[str, Any]) -> None:
    """Raise UserError for a value that is to be computed: a run's settings are written down resolved."""
    for key, value in _leaves(own, ""):
        if "${" in str(value):
            raise UserError(f"{path}: {key}={value} is an expression, and a run's settings are plain values: mend it")


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Give the dotted key and the value of all that is in a nest of mappings and lists, keys as values, too."""
    items = node.items() if is_mapping(node) else enumerate(node)
    for key, value in items:
        yield f"{prefix}{key}", key
        if is_mapping(value) or is_list(value):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _caches_here(own: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without a cache folder that is not there: what it would hold goes where the user's does."""
    members = own["data"].get("members")
    for data in (own["data"], *(members.values() if is_dict(members) else ())):
        if is_dict(data) and data.get("cache") and not Path(str(data["cache"])).expanduser().is_dir():
            logger.info(f"data.cache={data['cache']} of the run is not here: your own cache folder is taken")
            data["cache"] = None
    return own
