"""The settings of one trial as a command line that trains it again, without the search."""

import shlex
from collections.abc import Sequence
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from metalab.cli import sweeps
from metalab.cli.hydra_private import GIVEN
from metalab.cli.run_overrides import GROUPS
from metalab.config.instantiate import flat

SEARCH = ("train.prune_after", "train.prune_warmup")  # what concerns a trial among others alone


def best_command(config: DictConfig, words: Sequence[str], params: dict[str, Any]) -> str:
    """Return `metalab train ...` with a trial's settings: those that are fixed, its own, and what the search chose.

    Args:
        config: of the sweep, as Hydra composed it.
        words: of the command line, and what hydra.sweeper.params fixes.
        params: the values of the searched keys.
    """
    name, own = config.hydra.job.config_name, [f"{key}={text(value)}" for key, value in params.items()]
    asked = hydra.compose(name, [*_fixed(words, search=True), *own], return_hydra_config=True)
    typed = [*_fixed(words), *own]
    parts = [word for word in typed if key_of(word) in GROUPS]
    parts = [*_options(name, parts, asked), *parts]
    alone = [*parts, *[word for word in typed if word not in parts]]
    left = _left(hydra.compose(name, alone), asked)
    return shlex.join(["metalab", command_of(config), *_folders(config), *alone, *left])


def command_of(config: DictConfig) -> str:
    """Return the command that was typed; hydra.job.name may be any word."""
    plan = sweeps.current()
    return plan.command if plan is not None else str(config.hydra.job.name)


def _folders(config: DictConfig) -> list[str]:
    """Return the words that say where YAML of one's own lies."""
    sources = config.hydra.runtime.config_sources
    given = [f"--config-dir={each.path}" for each in sources if each.provider == GIVEN[0]]
    return [*given, *[word for word in config.hydra.overrides.hydra if word.startswith("hydra.searchpath=")]]


def _options(name: str, parts: Sequence[str], asked: DictConfig) -> list[str]:
    """Return the options that a search chose, as words; one may choose that of another group by itself.

    The algorithm is named though it be the default; of an evaluation it is the run's.
    """
    chosen, wanted = list[str](), asked.hydra.runtime.choices
    if name == "train" and "algo" not in map(key_of, parts):
        chosen.append(f"algo={wanted.algo}")
    while True:
        there = hydra.compose(name, [*chosen, *parts], return_hydra_config=True).hydra.runtime.choices
        typed = {"search", *map(key_of, (*chosen, *parts))}
        other = next((each for each in GROUPS if each not in typed and there.get(each) != wanted.get(each)), None)
        if other is None:
            return chosen
        chosen.append(f"{other}={wanted[other]}")


def key_of(word: str) -> str:
    """Return the key of a word key=value."""
    return word.lstrip("+").partition("=")[0]


def _fixed(words: Sequence[str], search: bool = False) -> list[str]:
    """Return the words that have one value, without the one that asks for the search unless it is wanted."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    pairs = zip(words, parsed, strict=True)
    return [word for word, each in pairs if not each.is_sweep_override() and (search or each.key_or_group != "search")]


def _left(made: DictConfig, asked: DictConfig) -> list[str]:
    """Return words for the settings that still differ: what a search of one's own fixes."""
    nodes = [OmegaConf.masked_copy(cfg, [key for key in map(str, cfg) if key != "hydra"]) for cfg in (made, asked)]
    there, wanted = (flat(OmegaConf.to_container(node, resolve=True)) for node in nodes)  # type: ignore[arg-type]
    differ = [key for key in wanted if key not in SEARCH and there.get(key, ...) != wanted[key]]
    return [f"{'' if key in there else '+'}{key}={text(wanted[key])}" for key in differ]


def text(value: Any) -> str:
    """Return a value as Hydra reads it on the command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(text, value))}]"
    return str(value)
