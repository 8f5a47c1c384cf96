"""What metalab leans on that Hydra does not promise, all of it: the one file to mend when a new version moves it.

tests/cli/test_hydra_private.py holds each to the versions that pyproject.toml takes. What is used and why:

- `get_args_parser` and `_run_hydra`: what hydra.main is made of. hydra.main itself parses sys.argv, which has metalab's
  own command in front and is kept as it was typed for the run's record; no public function takes the words instead.
- HYDRA_FULL_ERROR=1 while a job runs: else Hydra prints its mistakes and exits; no public setting has it raise them.
- `SourcesRegistry`: reads YAML of a folder that the command line gives without composing it. hydra.compose needs all
  that it composes to be sound, and ConfigLoader is reached by no public name.
- the names that Hydra gives folders of the command line in hydra.runtime.config_sources: documented nowhere.
- `BasicSweeper`: which jobs a sweep is to have, noted before its first so that `resume=` finds those that never began;
  only its launcher is ever told, and only of one batch.
- the texts of its errors: neither the key that is unknown nor the options that there are is a field of an exception.
"""

import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

from hydra._internal import utils
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigSource

FULL_ERROR = "HYDRA_FULL_ERROR"  # 1: whole tracebacks, as the user may ask for, too
GIVEN = ("command-line", "hydra.searchpath in command-line")  # providers of folders that the command line gives
UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'")
KEY_INSIDE = re.compile(r"full_key: (\S+)")  # in the cause: of a group that was given whole, the key that is unknown
UNKNOWN_OPTION = re.compile(r"Could not find '([^']+)/([^'/]+)'\n\nAvailable options in '[^']+':\n((?:\t.*\n)*)")


def args_parser() -> ArgumentParser:
    """Return the parser of Hydra's flags and of the words key=value."""
    return utils.get_args_parser()


def run(args: Namespace, parser: ArgumentParser, job: Callable[[Any], Any], folder: str, name: str) -> None:
    """Do what the parsed words ask for, as hydra.main does: the job, once or for a sweep, or what a flag shows.

    Args:
        args: what args_parser() read.
        parser: that parser, whose flags --hydra-help shows.
        job: what is called with the composed configuration.
        folder: the folder of YAML, absolute.
        name: the primary configuration in it.

    Raises:
        Exception: Hydra's own errors, and what the job raised; without FULL_ERROR Hydra would print them and exit.
    """
    before = os.environ.get(FULL_ERROR, "0")
    os.environ[FULL_ERROR] = "1"
    try:
        utils._run_hydra(args, parser, job, folder, name)
    finally:
        os.environ[FULL_ERROR] = before


def config_source(provider: str, schema: str, path: str) -> ConfigSource:
    """Return the reader of one folder of YAML that hydra.runtime.config_sources lists."""
    return SourcesRegistry.instance().resolve(schema)(provider, f"{schema}://{path}")


def split_sweep(sweeper: Any, words: list[str]) -> list[list[str]] | None:
    """Return the words of each job that Hydra's own sweeper makes of a command line, in its order; None: another one.

    Args:
        sweeper: hydra.sweeper of the composed configuration.
        words: hydra.overrides.task, as they were typed.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if sweeper._target_ != f"{BasicSweeper.__module__}.{BasicSweeper.__name__}":
        return None
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    loader = GlobalHydra.instance().config_loader() if GlobalHydra.instance().is_initialized() else None
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([*params, *words])
    return [job for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]
