"""The phases of train.phases as configurations: each is the command's own with the phase's words behind it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from metalab.cli import run_overrides
from metalab.cli.suggestions import explain_hydra_error
from metalab.config.validate import format_value
from metalab.core.errors import UserError
from metalab.tracking.run_folder import phase_folder

FORM = "'train.phases=[{data: glyphs, algo: baseline, steps: 300}, {algo: protonet, steps: 300}]'"
SHORT = {"steps": "train.steps"}  # keys of a phase that are no groups
OUTER = (
    "train.phases",
    "train.cycles",
    "train.keep_classes",
    "resume",
    "run",
    "hydra",
    "eval.folds",
    "train.generations",
)
MAY_CHANGE = ("device", "train.on_warning", "engine.graphs")  # in a resumed training: no result is another
NAME = re.compile(r"[\w./-]+")


def compose_phases(cfg: DictConfig, out: Path) -> list[DictConfig]:
    """Return the configuration of each phase of a job, in turn, the list gone through train.cycles times.

    Args:
        cfg: the job's configuration; where it resumes, the phases are those in out.
        out: the job's folder.

    Raises:
        UserError: with the number of the phase that is no mapping of settings, or names what there is not.
    """
    given = OmegaConf.to_container(cfg.train.phases, resolve=True) if OmegaConf.is_list(cfg.train.phases) else None
    if not isinstance(given, list) or not given:
        raise UserError(
            f"train.phases={format_value(cfg.train.phases if given is None else given)}: expected a list of phases, "
            f"each a group of settings, as in {FORM}"
        )
    cycles = cfg.train.cycles
    if type(cycles) is not int or cycles < 1:
        raise UserError(f"train.cycles={cycles}: expected 1 or more, as in train.cycles=1")
    if cfg.eval.folds is not None:
        raise UserError(f"eval.folds={cfg.eval.folds} with train.phases: folds are of one training; leave one out")
    if cfg.train.generations > 1:
        raise UserError(
            f"train.generations={cfg.train.generations} with train.phases: they are of one training; leave one out"
        )
    count = len(given) * cycles
    if cfg.resume is not None:
        return _resumed(out, count)
    if cfg.train.keep_classes:
        raise UserError(
            "train.keep_classes=true with train.phases: each phase keeps the classes of those before it anyway, and "
            "the first begins with its own: leave it out"
        )
    typed = run_overrides.words()
    return [following(_composed(typed, given[k % len(given)], k), out, k) for k in range(count)]


def following(cfg: DictConfig, out: Path, k: int) -> DictConfig:
    """Return the configuration of phase k as a run of its own, which begins with the weights of the one before."""
    with open_dict(cfg):
        cfg.train.phases, cfg.train.cycles = None, 1
        if k:
            cfg.train.init, cfg.train.weights, cfg.train.keep_classes = str(phase_folder(out, k - 1)), None, True
            if "replay" in cfg.reg:
                cfg.reg.replay.memory = str(phase_folder(out, k - 1) / "memory.pt")
    return cfg


def _composed(typed: list[str], phase: Any, k: int) -> DictConfig:
    where = f"train.phases[{k}]"
    if not isinstance(phase, Mapping) or not phase:
        raise UserError(f"{where}={format_value(phase)}: expected a group of settings, as in {FORM}")
    own = dict(_words(phase, where, k))
    kept = [word for word in typed if _key(word) not in {*own, *OUTER[:3]}]
    words = [*kept, *(f"{key}={value}" for key, value in own.items())]
    words = [word for word in words if not _key(word).startswith("hydra.")]
    path = [word for word in HydraConfig.get().overrides.hydra if _key(word) == "hydra.searchpath"]
    try:
        return hydra.compose("train", overrides=[*path, *words, "train.phases=null", "train.cycles=1"])
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{where}: {explain_hydra_error(error, 'train', words)}") from error


def _words(phase: Mapping[Any, Any], where: str, k: int) -> Iterator[tuple[str, str]]:
    """Give the key and the value, as Hydra reads it, of each setting of a phase; a group in it is gone into."""
    for name, value in phase.items():
        key = SHORT.get(str(name), str(name))
        if any(key.lstrip("+~") == outer or key.startswith(f"{outer}.") for outer in OUTER) or (
            key == "train.init" and k
        ):
            raise UserError(f"{where}.{key}: a phase cannot set it: leave it out")
        if key in run_overrides.GROUPS and not isinstance(value, Mapping):
            yield key, _option(key, value, where)
        elif isinstance(value, Mapping) and key.partition(".")[0] in (*run_overrides.GROUPS, "train", "eval"):
            yield from _words({f"{key}.{inside}": each for inside, each in value.items()}, where, k)
        else:
            yield key, _value(value)


def _option(key: str, value: Any, where: str) -> str:
    """Return the name of an option, or the list of them that reg and attack take."""
    names = [str(name) for name in value] if isinstance(value, list) else ["null" if value is None else str(value)]
    if not all(map(NAME.fullmatch, names)) or (isinstance(value, list) and key not in run_overrides.MANY):
        raise UserError(f"{where}.{key}={format_value(value)}: expected the name of an option, as {key}: NAME")
    return f"[{','.join(names)}]" if isinstance(value, list) else names[0]


def _value(value: Any) -> str:
    """Return a plain value as Hydra's grammar has it."""
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_value(each)}' for key, each in value.items())}}}"
    return format_value(value)


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _resumed(out: Path, count: int) -> list[DictConfig]:
    """Return the phases of the training in out as they were begun, under the words of the command line."""
    words = [word for word in run_overrides.words() if _key(word) != "resume"]
    if other := [word for word in words if _key(word) not in MAY_CHANGE]:
        raise UserError(
            f"{other[0]}: resume={out} goes on with the same phases and takes only {', '.join(MAY_CHANGE)}: leave it "
            "out, or begin anew in another folder"
        )
    return [run_overrides.compose_training(phase_folder(out, k), words) for k in range(count)]
