"""metalab's sweeper: Optuna's, which goes on after a kill; Hydra finds sweepers in this package alone."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SearchSweeper(Sweeper):
    """What conf/hydra/sweeper/search.yaml names. Every command imports this file, and a search alone loads Optuna."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from metalab.cli.search.sweeper import Search

        self._search = Search(**self._settings)
        self._search.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        return self._search.sweep(arguments)
