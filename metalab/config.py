"""The only door from configuration to objects: find conf/ and runs, check every key and type, build dataclasses."""

import dataclasses
import importlib
import itertools
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metalab import trusted
from metalab.check import at_least, check, describe, nearest, show
from metalab.errors import UserError

T = TypeVar("T")
DEEPEST, MOST = 6, 20_000  # folders inside each other, and in all, that are searched for runs
BN = Literal["batch", "support", "one", "running"]


@dataclasses.dataclass(frozen=True)
class Train:
    """How long a run lasts, when it validates and what it keeps."""

    steps: int
    minutes: float | None
    meta_batch: int | None
    val_every: int
    val_episodes: int
    monitor: Literal["accuracy", "loss"]
    patience: int | None
    init: str | None
    bn: Literal["batch", "support"] | None
    log_every: int
    workers: int | None = None
    weights: Literal["xavier", "he", "orthogonal", "torch"] | None = None
    on_warning: Literal["save", "leave"] = "save"

    def __post_init__(self) -> None:
        least = {
            "steps": 1,
            "meta_batch": 1,
            "val_every": 1,
            "val_episodes": 2,
            "patience": 1,
            "log_every": 1,
            "workers": 0,
        }
        at_least("train", self, least)
        if self.minutes is not None and not self.minutes > 0:
            raise UserError(f"train.minutes={self.minutes:g}: expected more than 0, or null for no limit")
        if self.weights is not None and self.init is not None:
            raise UserError(
                f"train.weights={self.weights} with train.init={self.init}: the weights come from one of them"
            )


@dataclasses.dataclass(frozen=True)
class Eval:
    """How many episodes are evaluated, on which split and how they are normalised."""

    episodes: int
    bn: BN | None
    split: Literal["train", "val", "test"]
    allow_overlap: bool
    batch: int
    eps: list[float] | None = None

    def __post_init__(self) -> None:
        at_least("eval", self, {"episodes": 2, "batch": 1})


def conf_dir() -> Path:
    """Return the folder of the shipped YAML: inside the package when it was installed, beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def build(node: Any, where: str, **given: Any) -> Any:
    """Build the dataclass that node's `_target_` names from node's other keys and the given fields.

    `where` is the node's place in the configuration ("algo"), which every UserError names.
    """
    values = _plain(node, where)
    target = values.pop("_target_", None)
    if not isinstance(target, str) or target == "???":
        raise UserError(f"{where}._target_={show(target)}: expected the dotted path of a dataclass, as package.Class")
    cls = locate(target, f"{where}._target_")
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise UserError(f"{where}._target_={target}: expected a dataclass; decorate it with @dataclasses.dataclass")
    return _construct(cls, values, where, given)


def settings(cls: type[T], node: Any, where: str) -> T:
    """Build cls from node, which has no `_target_`; `where` is the node's place in the configuration ("task")."""
    return _construct(cls, _plain(node, where), where, {})


def locate(dotted: str, where: str) -> Any:
    """Return the object at a dotted path; `where` is the key that named it.

    UserError where there is none, or where the command may not import it (trusted.py).
    """
    module, _, name = dotted.rpartition(".")
    if not module or not all(part.isidentifier() for part in dotted.split(".")):
        raise UserError(f"{where}={dotted}: expected a dotted path, as package.module.Name")
    trusted.check(dotted, where)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, what it imports is not
        raise UserError(
            f"{where}={dotted}: there is no module {error.name!r}; install it, or put its folder on PYTHONPATH"
        ) from None
    if name not in vars(found):
        raise UserError(f"{where}={dotted}: module {module} has no {name!r}.{nearest(name, vars(found))}")
    trusted.check_found(vars(found)[name], dotted, where)
    return vars(found)[name]


def find_run(given: str | Path, holds: str = "best.pt", instead: str | None = None) -> Path:
    """Return a run's folder from its path, or, for "latest", the run below outputs/train that saved last.

    `holds` is the file that the folder must have, `instead` one that also does; a UserError lists the runs that have.
    """
    home, files = Path("outputs/train"), (holds,) if instead is None else (holds, instead)
    if str(given) == "latest":
        runs = _runs_below(home, files)
        if not runs:
            raise UserError(f"no run in {home.absolute()} holds {holds}; train one: metalab train")
        return runs[0]
    folder = Path(given)
    if len(os.fsencode(folder)) > 4095 or any(len(os.fsencode(name)) > 255 for name in folder.parts):
        raise UserError(f"{str(folder)[:60]}... is longer than a path may be: there is no such folder")
    if any((folder / file).is_file() for file in files):
        return folder
    if folder.is_file():
        problem = f"{folder} is a file; give the run's folder, {folder.parent}"
    elif not folder.exists():
        problem = f"there is no folder {folder} in {Path.cwd()}"
    elif (folder / "config.yaml").is_file():
        problem = f"{folder} holds no {holds} yet: a run saves it when it first validates"
    else:
        problem = f"{folder} is not a run: it holds no {holds}"
    runs = _runs_below(folder, files) or _runs_below(home, files)
    listed = "\n".join(f"  {run}" for run in runs[:10])
    raise UserError(
        f"{problem}\n" + (f"runs with {holds}, newest first:\n{listed}" if runs else "train one: metalab train")
    )


def _runs_below(folder: Path, files: tuple[str, ...]) -> list[Path]:
    """Return the folders below that hold one of the files, the one that was written last first.

    Where they are looked for in vain: not deeper than runs lie, and not in more than so many folders (run=/).
    """
    found: list[Path] = []
    for inside, below, names in itertools.islice(os.walk(folder), MOST):
        if len(Path(inside).relative_to(folder).parts) >= DEEPEST:
            below.clear()
        found += [Path(inside, name) for name in files if name in names]
    found.sort(key=lambda file: (file.stat().st_mtime_ns, str(file)), reverse=True)
    return list(dict.fromkeys(file.parent for file in found))


def _plain(node: Any, where: str) -> dict[str, Any]:
    """Return a config node, or a mapping that holds some, as plain Python with nothing left to resolve."""
    try:
        plain = _resolved(node)
        if isinstance(plain, Mapping):
            return {str(key): _resolved(value) for key, value in plain.items()}
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {error}") from error
    raise UserError(f"{where}={show(plain)}: expected a group of settings, each as {where}.<key>=<value>")


def _resolved(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _construct(cls: type[T], values: dict[str, Any], where: str, given: dict[str, Any]) -> T:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for name in given:
        if name not in fields:
            raise UserError(
                f"{where}: {cls.__module__}.{cls.__qualname__} lacks the field {name!r}, which metalab sets"
            )
        if name in values:
            raise UserError(f"{where}.{name}={show(values[name])}: metalab sets this itself; remove the key")
    settable = [name for name in fields if name not in given]
    for key in values:
        if key not in settable:
            raise UserError(
                f"{where}.{key}={show(values[key])}: {cls.__name__} has no such setting.{nearest(key, settable, where)}"
            )
    checked = {}
    for name in settable:
        field, key, value = fields[name], f"{where}.{name}", values.get(name, "???")
        if value != "???":
            checked[name] = check(value, hints[name], key)
        elif name in values or (field.default, field.default_factory) == (dataclasses.MISSING, dataclasses.MISSING):
            expected, example = describe(hints[name])
            raise UserError(f"{key} is not set: expected {expected}, as in {key}={example}")
    return cls(**checked, **given)
