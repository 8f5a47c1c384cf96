"""How a folder's images are prepared, filled in where the backbone's weights decide: data.size=null."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from metalab.config.experiment import ExperimentConfig
from metalab.config.nodes import is_mapping
from metalab.core.interfaces import Backbone, preparation_of

SIZE = 84  # pixels where no weights ask for others
KEYS = ("size", "resize", "interpolation")
logger = logging.getLogger("metalab")


def resolve_preparation(
    config: ExperimentConfig, backbone: Backbone, saved: Mapping[str, Any] | None = None
) -> ExperimentConfig:
    """Return the configuration with the size of the images, and how it comes about, as the run keeps them.

    Args:
        config: what is asked for; where data.size is a number, it is returned as it is.
        backbone: of it, built.
        saved: the checkpoint that is evaluated, whose images were prepared in a way; None: nothing was trained yet.
    """
    own = preparation_fields(backbone) if saved is None else _trained(saved)
    data = fill_preparation(config.data, own)
    if data == config.data:
        return config
    if saved is None and data.get("size") != config.data.get("size") and preparation_of(backbone) is not None:
        shown = " ".join(f"data.{key}={'null' if data[key] is None else data[key]}" for key in KEYS)
        logger.info(f"data.size=null: images are prepared as the backbone's own: {shown}")
    return replace(config, data=data, whole={**config.whole, "data": data})


def fill_preparation(data: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a group `data`, or a union's with its members, whose folders have a size.

    own: size, resize and interpolation that a folder takes where its size is null and it does not say another resize
    or interpolation; None: nothing asks for any.
    """
    node = dict(data)
    if is_mapping(members := node.get("members")):
        node["members"] = {name: _filled_member(member, own) for name, member in members.items()}
    if "resize" in node and node.get("size") is None:
        chosen = own or {"size": SIZE, "resize": None, "interpolation": None}
        node["size"] = chosen["size"]
        node |= {key: chosen[key] for key in KEYS[1:] if node.get(key) is None}
    return node


def _filled_member(member: Any, own: Mapping[str, Any] | None) -> Any:
    return fill_preparation(member, own) if is_mapping(member) else member


def preparation_fields(backbone: Backbone) -> dict[str, Any] | None:
    """Return size, resize and interpolation of a backbone's own preparation; None: it has none."""
    preparation = preparation_of(backbone)
    return None if preparation is None else {key: getattr(preparation, key) for key in KEYS}


def _trained(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the images of a checkpoint's training were prepared; a benchmark's are stretched to their square."""
    node = saved["config"]["data"]
    return {"size": saved["shape"][1], "resize": node.get("resize"), "interpolation": node.get("interpolation")}
