"""What `metalab compare` compares: each run under the words of the command line, on each data set."""

from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metalab.cli import suggestions
from metalab.cli.run_overrides import compose_run, words
from metalab.config.validate import format_value
from metalab.core.errors import UserError
from metalab.tracking.run_folder import find_run


def compose_by_data(cfg: DictConfig) -> dict[str, list[tuple[Path, DictConfig]]]:
    """Return the folders and configurations of the runs to compare, by the data set that each is tested on.

    One entry, "", where compare.data names none: each run's own data, or that of the command line.

    Raises:
        UserError: for fewer than two runs, and for names that are no list, are there twice or beside data=.
    """
    names, typed = _data_names(cfg.get("compare")), words()
    if names and any(word.lstrip("+~").startswith("data=") for word in typed):
        raise UserError("compare.data names what the runs are tested on: leave out data=, or type compare.data=null")
    given = list(cfg.run) if isinstance(cfg.run, ListConfig) else [] if cfg.run is None else [cfg.run]
    if len(given) < 2:
        there = f"{given[0]} is one run" if given else "which runs?"
        raise UserError(
            f"{there}: metalab compare takes two or more, as run=[A,B], run='outputs/train/2026-*/*' or the folder of "
            "a sweep; metalab eval run=A measures one"
        )
    folders = [find_run(str(name)) for name in given]
    chosen = {name: [*typed, f"data={name}"] for name in names} if names else {"": typed}
    return {name: [(folder, _composed(folder, each)) for folder in folders] for name, each in chosen.items()}


def _composed(folder: Path, typed: list[str]) -> DictConfig:
    """Return a run's configuration under the words; UserError where it does not know one of them."""
    try:
        return compose_run(folder, "compare", typed)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{folder}: {suggestions.explain_hydra_error(error, 'compare', typed)}") from error


def _data_names(node: Any) -> list[str]:
    """Return what compare.data names; UserError where that is no list of names."""
    given: Any = node.get("data") if OmegaConf.is_dict(node) else None
    if given is None:
        return []
    names = [str(name) for name in given] if isinstance(given, ListConfig) else []
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"compare.data={format_value(names or given)}: expected a list of data sets, each once, as "
            "compare.data=[omniglot,glyphs]"
        )
    return names
