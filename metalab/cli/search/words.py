"""Whether a search can be done as it is typed, told before anything is composed."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from metalab.core.errors import UserError

NEEDS = ("hydra_plugins.hydra_optuna_sweeper", "optuna")
OPTUNA, OURS = "hydra/sweeper=optuna", "hydra/sweeper=search"
PLUGIN = "hydra_plugins.hydra_optuna_sweeper"


def search_words(words: Sequence[str], multirun: bool, runs: bool) -> list[str]:
    """Return the words of a command line, with metalab's sweeper in the place of the one that minimizes.

    Args:
        words: key=value.
        multirun: whether -m is among them.
        runs: whether jobs are run, rather than a configuration shown.

    Raises:
        UserError: where a search lacks -m or the packages that it needs, or several are named.
    """
    asked = next((word for word in words if word.startswith("search=") and word != "search=null"), None)
    if asked is None and not {OPTUNA, OURS} & {*words}:
        return [*words]
    if not all(map(_installed, NEEDS)):
        raise UserError(f"{asked or OPTUNA} needs Optuna: type pip install 'metalab[sweep]'")
    if asked is not None and _several(asked):
        raise UserError(f"{asked}: one search at a time, as search=maml; each has a command line of its own")
    if asked is not None and runs and not multirun:
        raise UserError(f"{asked} trains many runs: type -m as well, as metalab train -m {asked}")
    return [OURS if word == OPTUNA else word for word in words]


class RefuseMinimizing(Callback):
    """Refuse Optuna's own sweeper, where a YAML chose it, when it minimizes: in conf/train.yaml, hydra.callbacks."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        sweeper = config.hydra.sweeper
        direction = sweeper.get("direction")
        if str(sweeper.get("_target_")).startswith(PLUGIN) and getattr(direction, "name", direction) != "maximize":
            sys.exit(  # what is no SystemExit Hydra makes a warning of
                "metalab: hydra/sweeper=optuna minimizes, and a job returns its accuracy: take hydra/sweeper=search in "
                "its place, or set hydra.sweeper.direction=maximize"
            )


def _several(word: str) -> bool:
    """Whether a word names several options; what Hydra cannot read it tells itself."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    with suppress(OverrideParseException):
        override = OverridesParser.create().parse_override(word)
        return override.is_sweep_override() or isinstance(override.value(), list)
    return False


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent
        return False
