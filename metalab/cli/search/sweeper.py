"""Optuna's sweeper for Hydra with what it lacks: it goes on where it was killed, and says what it found."""

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from metalab.cli import sweeps
from metalab.cli.search import going_on, report
from metalab.cli.search.command import command_of
from metalab.cli.search.lock import locked
from metalab.cli.search.settings import joblib_cores, refuse_settings
from metalab.cli.search.space import grid, read_words, refuse_measures
from metalab.core.errors import UserError

GRID, CMAES = "GridSampler", "CmaEsSampler"
logger = logging.getLogger("metalab")


class Search(OptunaSweeperImpl):
    """A search whose trials are kept in the sweep's folder; the same command goes on there, to n_trials in all."""

    def __init__(self, **settings: Any) -> None:
        refuse_settings(settings)
        super().__init__(**settings)
        self.study_name = self.study_name or "search"  # without a name each look would be at a new study

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the configuration of the sweep; UserError where the search would choose by what it must not."""
        if config.hydra.launcher._target_ == sweeps.IN_ORDER:  # a job in a process of its own does this by itself
            task_function = partial(_valued, task_function)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.whole = config
        self._refuse()
        self.n_jobs = self.n_jobs if self.n_jobs > 0 else joblib_cores()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        for name in ("alembic", OptunaSweeperImpl.__module__):  # what they say is said by the report, or is of no use
            logging.getLogger(name).setLevel(logging.WARNING)

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that are still to come, and write down what was found.

        Args:
            arguments: the words of the command line, ranges among them.

        Raises:
            UserError: for a key that this configuration does not have, a folder that holds another search or is being
                written by one, or where no trial came to its end.
        """
        self._read(arguments)
        with locked(Path(self.sweep_dir)):
            self._go_on(arguments)
            self._run()
            report.write(self._study(), Path(self.sweep_dir), self.whole, self.fixed)

    def _run(self) -> None:
        """Run the trials; where none came to its end there is no best one, which the report tells."""
        last = self.job_idx + self.n_trials
        try:
            super().sweep(self.fixed)
        except ValueError:  # also what Optuna says where there is no best one
            if len(self._study().get_trials(states=(TrialState.FAIL,))) < last:
                raise

    def _configure_trials(self, trials: Any, space: Any, fixed: dict[str, Any]) -> Sequence[Sequence[str]]:
        """Return the words of each trial, by the space of this search; null is called so, and not None."""
        every = super()._configure_trials(trials, self.space, fixed)
        refuse_measures([key for trial in trials for key in trial.params], "hydra.sweeper.custom_search_space")
        return [tuple(map(going_on.word, words)) for words in every]

    def _refuse(self) -> None:
        """Raise UserError for settings with which a search would find the worst, or choose by the test split."""
        command = command_of(self.whole)
        if self._get_directions() != ["maximize"]:
            raise UserError(
                f"hydra.sweeper.direction={self.direction}: metalab {command} returns an accuracy, of which a search "
                "seeks the highest: leave it out, or type maximize"
            )
        if command != "train" and self.whole.eval.split == "test":
            raise UserError(
                "a search that chooses by the test split would report what it was chosen by: type eval.split=val, and "
                "test what it finds once"
            )

    def _read(self, arguments: Sequence[str]) -> None:
        """Set the distribution of each searched key, and the words of the others.

        Raises:
            UserError: for a key that the configuration does not have, or by which trials are measured.
        """
        self._process_searchspace_config()
        space, self.fixed = read_words(self.params, arguments)
        held = {word.partition("=")[0] for word in self.fixed}
        self.space = {key: each for key, each in (self.search_space_distributions or {}).items() if key not in held}
        self.space.update(space)
        self.params, self.search_space = OmegaConf.create({}), None  # all is read
        chosen = self.whole.hydra.runtime.choices
        by = f"search={chosen.search}" if chosen.get("search") else "the search"
        for key in self.space:
            if key not in chosen and not key.startswith("+") and not _has(self.whole, key):
                raise UserError(
                    f"{by} varies {key}, and there is no such setting with "
                    f"algo={chosen.algo} and optim={chosen.optim}: leave the word out that chose these, or take "
                    f"{key} out of the space by a value for it that is there"
                )
        refuse_measures(list(self.space), by)
        if not self.space and self.custom_search_space_extender is None:
            raise UserError("nothing is varied: type search=METHOD, or a range, as 'optim.lr=interval(0.001,0.1)'")

    def _study(self) -> optuna.Study:
        return optuna.create_study(
            study_name=self.study_name, storage=self.storage, direction="maximize", load_if_exists=True
        )

    def _go_on(self, arguments: Sequence[str]) -> None:
        """Ask only for the trials that are still to come; those that were broken off come first, with their values."""
        points = self._points()
        self.storage = optuna.storages.get_storage(self.storage)
        study = self._study()
        self._refuse_other(study, arguments)
        broken = going_on.end_broken(study, Path(self.sweep_dir))
        ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL))
        killed = study.user_attrs.get(going_on.KILLED, [])
        done = [trial for trial in ended if trial.number not in killed]
        if ended:
            logger.info(f"{self.sweep_dir} has {len(done)} of {self.n_trials} trials: the search goes on")
        self.job_idx, self.n_trials = len(ended), max(0, self.n_trials - len(done))
        self.sampler = self._sampler(len(ended))
        if points is None:
            going_on.enqueue(study, broken)
        else:
            waiting = study.get_trials(states=(TrialState.WAITING,))
            known = [*(trial.params for trial in done), *(trial.system_attrs["fixed_params"] for trial in waiting)]
            new = [point for point in points if point not in known]
            going_on.enqueue(study, new[: max(0, self.n_trials - len(waiting))])

    def _points(self) -> list[dict[str, Any]] | None:
        """Return the points of a grid, in an order by the run's seed; None for another sampler.

        They are asked for by their values: Optuna's own GridSampler never comes back to one that was killed.
        """
        if not str(self.sampler.get("_target_")).endswith(GRID):
            return None
        if self.custom_search_space_extender is not None:
            raise UserError("hydra/sweeper/sampler=grid knows no hydra.sweeper.custom_search_space: take another one")
        points = grid(self.space)
        random.Random(self.whole.seed).shuffle(points)
        self.n_trials = min(self.n_trials, len(points))
        return points

    def _refuse_other(self, study: optuna.Study, arguments: Sequence[str]) -> None:
        """Raise UserError where the folder holds another search than this one, or one that cannot go on."""
        space = {key: str(value) for key, value in sorted(self.space.items())}
        own = [word for word in self.fixed if word not in arguments]
        asked = {"words": sorted(arguments), "space": space, **({"fixed": own} if own else {})}
        going_on.refuse_other(study, asked, Path(self.sweep_dir))
        if str(self.sampler.get("_target_")).endswith(CMAES) and study.get_trials(deepcopy=False):
            raise UserError(
                f"{self.sweep_dir} holds trials, and hydra/sweeper/sampler=cmaes would run whatever code its state in "
                "search.db holds (a pickle), so that it does not go on: type another hydra.sweep.dir, or another "
                "sampler, as hydra/sweeper/sampler=tpe"
            )

    def _sampler(self, begun: int) -> Any:
        """Build the sampler, by its own seed or the run's, where it takes one; each start has another: draws recur."""
        if str(self.sampler.get("_target_")).endswith(GRID):
            return optuna.samplers.RandomSampler(self.whole.seed)  # every point is asked for by its values
        if "seed" not in self.sampler:
            return instantiate(self.sampler)
        given = self.sampler.seed
        return instantiate(self.sampler, seed=((self.whole.seed if given is None else given) + begun) % 2**32)


def _valued(task: TaskFunction, cfg: Any) -> Any:
    """Run a job and write down what it returned, for a search that is broken off before it is told."""
    value = task(cfg)
    sweeps.record(replace(sweeps.this_job("done"), value=value, pid=None, host=None))
    return value


def _has(config: DictConfig, key: str) -> bool:
    """Whether a configuration has a setting, null or not."""
    where, _, name = key.partition("@")[0].rpartition(".")
    node = OmegaConf.select(config, where) if where else config
    return OmegaConf.is_dict(node) and name in node
