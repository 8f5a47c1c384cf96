"""What best.pt and last.pt hold, checked before any of it is used."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalab.config.moved_names import rename_moved
from metalab.config.upgrade import upgrade_config
from metalab.config.validate import format_value
from metalab.core.errors import UserError
from metalab.tracking import checkpoint
from metalab.tracking.training_state import State

Mismatch = tuple[str, Any, str]  # a dotted key, its value, what is expected
NOTHING = object()
PLAIN = 100_000  # values in a configuration at most
DEEP = 20  # groups and lists inside each other


def load_checked(path: Path) -> dict[str, Any]:
    """Return a run's checkpoint; UserError, naming the key, where it does not hold what a run writes."""
    saved = _as_spelled_now(checkpoint.load(path))
    refuse(path, mismatches(saved))
    for name, upgraded in {
        "config": upgrade_config,
        "engine": rename_moved,
    }.items():  # an older version's, as today's reads it
        if name in saved:
            saved[name] = upgraded(saved[name])
    return saved


def _as_spelled_now(saved: dict[str, Any]) -> dict[str, Any]:
    """Return what a file holds under the names of this version: 0.1 wrote optimiser, and normalise. in the net."""
    if "optimiser" in saved:
        saved["optimizer"] = saved.pop("optimiser")
    if isinstance(net := saved.get("net"), dict):
        saved["net"] = {
            f"normalize.{name[10:]}" if _text(name) and name.startswith("normalise.") else name: value
            for name, value in net.items()
        }
    return saved


def refuse(path: Path, found: Iterable[Mismatch]) -> None:
    """Raise UserError for the first of the misfits of a checkpoint, if there is any."""
    for key, value, expected in found:
        given = "nothing" if value is NOTHING else _shown(value)
        raise UserError(
            f"{path}: {key} is {given}, expected {expected}. The file was altered or is damaged: nothing of it was "
            "used, and nothing written. Take another checkpoint of the run, or train again"
        )


def mismatches(saved: Mapping[str, Any]) -> Iterator[Mismatch]:
    """Give what of a checkpoint is missing or of another kind, the groups before what is in them."""
    for key, (fits, expected) in EXPECTED.items():
        value = _at(saved, key)
        if (value is not NOTHING or key not in LATER) and not fits(value):
            yield key, value, expected
    for name, value in saved["net"].items():
        if not (_text(name) and _tensor(value)):
            yield f"net.{name}", value, "a tensor with all its numbers in the file"
    known = {field.name for field in fields(State)}
    for key in saved["state"].keys() - known:
        yield f"state.{key}", saved["state"][key], f"one of {', '.join(sorted(known))}"


def net_mismatches(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Iterator[Mismatch]:
    """Give what of a checkpoint's net does not fit the net that its settings make."""
    for name in dict.fromkeys((*own, *given)):
        if name not in given or name not in own or own[name].shape != given[name].shape:
            expected = f"a tensor of shape {list(own[name].shape)}" if name in own else "nothing of that name"
            yield f"net.{name}", given.get(name, NOTHING), expected


def optimizer_mismatches(
    own: Mapping[str, Any], given: Mapping[str, Any], one: Mapping[str, Any], shapes: list[torch.Size]
) -> Iterator[Mismatch]:
    """Give what of a saved optimizer does not fit the one that the settings make.

    own: its state, new; one: what it keeps of one parameter of shape [2] after a step; shapes: of the parameters.
    """
    if len(given["param_groups"]) != len(own["param_groups"]):
        yield "optimizer.param_groups", given["param_groups"], f"{len(own['param_groups'])} groups"
        return
    for i, (mine, theirs) in enumerate(zip(own["param_groups"], given["param_groups"], strict=True)):
        found = theirs.get("params", NOTHING)
        if not (_list_of(_whole)(found) and found == mine["params"]):
            yield f"optimizer.param_groups.{i}.params", found, f"{len(mine['params'])} parameters"
    for index, kept in given["state"].items():
        here = f"optimizer.state.{index}"
        if not (_whole(index) and index < len(shapes) and isinstance(kept, dict)):
            yield here, kept, f"a group for a parameter, 0 to {len(shapes) - 1}"
            return
        for key in dict.fromkeys((*one, *kept)):
            value, mine = kept.get(key, NOTHING), one.get(key, NOTHING)
            if isinstance(mine, Tensor):
                shape = shapes[index] if mine.shape == (2,) else mine.shape
                if not (isinstance(value, Tensor) and _tensor(value) and value.shape == shape):
                    yield f"{here}.{key}", value, f"a tensor of shape {list(shape)}"
            elif (value is NOTHING or value is None) and (mine is NOTHING or mine is None):
                continue  # torch's versions differ in whether they write down that they keep nothing
            elif mine is NOTHING or not _alike(value, mine):
                yield f"{here}.{key}", value, "nothing" if mine is NOTHING else f"a value like {_shown(mine)}"


def _alike(value: Any, like: Any) -> bool:
    """Whether a setting of an optimizer is of the kind of another."""
    if like is None or isinstance(like, bool):
        return value is None or isinstance(value, bool)
    if isinstance(like, (int, float)):
        return _number(value)
    if isinstance(like, (tuple, list)):
        return isinstance(value, (tuple, list)) and len(value) == len(like) and all(map(_alike, value, like))
    return type(value) is type(like)


def _at(node: Any, key: str) -> Any:
    """Return what stands at a dotted key, or NOTHING."""
    for name in key.split("."):
        if not isinstance(node, dict) or name not in node:
            return NOTHING
        node = node[name]
    return node


def _shown(value: Any) -> str:
    """Return a value as it fits into a line."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (dict, list, tuple, set)):
        return f"{'a group' if isinstance(value, dict) else 'a list'} of {len(value)}"
    said = format_value(value)
    return said if len(said) <= 60 else f"{said[:60]}..."


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _text(value: Any) -> bool:
    return type(value) is str


def _group(value: Any) -> bool:
    return isinstance(value, dict)


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _tensor(value: Any) -> bool:
    """Whether a value is a tensor of real numbers that has all its elements in the file, not only a shape."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    if value.is_complex() or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _row(value: Any) -> bool:
    return _tensor(value) and value.is_floating_point() and value.dim() == 1 and 4 <= len(value) <= 5


def _kept(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and _score(value[0]) and _whole(value[1])


def _random(value: Any) -> bool:
    """Whether a tensor is a state that torch's generator of the CPU takes."""
    if not _bytes(value) or value.shape != torch.get_rng_state().shape:
        return False
    try:
        torch.Generator().set_state(value)
    except RuntimeError:
        return False
    return True


def _bytes(value: Any) -> bool:
    return _tensor(value) and value.dtype == torch.uint8


def _plain(value: Any) -> bool:
    """Whether a value is a group of settings: text, numbers, switches and null in groups and lists, not too many."""
    seen, level = 0, [value]
    for _ in range(DEEP):
        inside: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                if not all(map(_text, node)):
                    return False
                inside += node.values()
            elif isinstance(node, list):
                inside += node
            elif not (node is None or type(node) in (str, int, float, bool)):
                return False
            if len(inside) + seen > PLAIN:
                return False
        seen, level = seen + len(level), inside
    return isinstance(value, dict) and not level


def _shape(value: Any) -> bool:
    sizes = isinstance(value, list) and len(value) == 3 and all(map(_whole, value))
    return sizes and 1 <= value[0] <= 64 and value[1] == value[2] and 1 <= value[1] <= 4096


def _score(value: Any) -> bool:
    return type(value) in (int, float)  # nan, too: a loss may be


EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "net": (_group, "a group of tensors"),
    "optimizer": (_group, "a group"),
    "optimizer.state": (_group, "a group"),
    "optimizer.param_groups": (_list_of(_group), "a list of groups of settings"),
    "state": (_group, "a group"),
    "state.step": (_whole, "a whole number, 0 or more"),
    "state.best": (_or_none(_score), "a number or null"),
    "state.best_accuracy": (_or_none(_score), "a number or null"),
    "state.stale": (_whole, "a whole number, 0 or more"),
    "state.seconds": (lambda value: _number(value) and value >= 0, "a number, 0 or more"),
    "state.busy": (lambda value: _number(value) and value >= 0, "a number, 0 or more"),
    "state.kept": (_list_of(_kept), "a list of values and steps"),
    "state.window": (_list_of(_row), "a list of tensors of shape [4] or [5]"),
    "random": (_group, "a group"),
    "random.cpu": (_random, "a state of torch's generator"),
    "random.cuda": (_list_of(_bytes), "a list of states of torch's generators"),
    "classes": (_list_of(_text), "a list of class ids"),
    "engine": (_plain, "a group of settings"),
    "engine._target_": (_text, "text"),
    "config": (_plain, "a group of settings"),
    **{f"config.{group}": (_group, "a group") for group in ("algo", "backbone", "data", "optim", "task", "train")},
    "config.algo.name": (_text, "text"),
    "config.data._target_": (_text, "text"),
    "config.train.steps": (_number, "a number"),
    "config.seed": (lambda value: type(value) is int and 0 <= value < 2**64, "a whole number, 0 to 2^64"),
    "train_way": (lambda value: _whole(value) and 1 <= value <= 10**6, "a whole number of classes"),
    "labels": (_list_of(_text), "a list of class ids"),
    "label_names": (_list_of(_text), "a list of names of classes"),
    "head_classes": (_list_of(_text), "a list of class ids"),
    "shape": (_shape, "channels, height and width of square images, up to 4096 pixels"),
    "data": (_group, "a group"),
    "data.note": (_text, "text"),
    "data.train": (_text, "text"),
    "data.val": (_text, "text"),
}
# what the first versions did not write
LATER = ("engine", "engine._target_", "labels", "label_names", "head_classes", "state.kept")
