"""How a search goes on, and what it asks for: the sweeper alone, with trials that are kept in memory."""

import json
import re
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from metalab.cli import sweeps
from metalab.config.paths import conf_dir
from metalab.core.errors import UserError

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="metalab[sweep] is not installed")
optuna = pytest.importorskip("optuna")


class PowerCut(BaseException):
    """What a search cannot catch."""


class Launcher:
    """Runs no job: the value of each is its number, and that which should break is the end of all."""

    def __init__(self, breaks: int | None = None):
        self.breaks, self.asked = breaks, list[dict[str, str]]()

    def launch(self, jobs: Any, initial_job_idx: int) -> list[SimpleNamespace]:
        for number, words in enumerate(jobs, initial_job_idx):
            if number == self.breaks:
                raise PowerCut
            self.asked.append(dict(word.split("=") for word in words))
        return [SimpleNamespace(return_value=float(initial_job_idx + i)) for i in range(len(jobs))]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a search in tmp_path/found, again with the same trials; return what was asked for."""
    from metalab.cli.search import report
    from metalab.cli.search.sweeper import Search

    monkeypatch.setattr(report, "write", lambda *_: None)
    trials = optuna.storages.InMemoryStorage()

    def begin(*words: str, breaks: int | None = None, more: tuple[str, ...] = (), **settings: Any) -> Any:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            whole = ["hydra/sweeper=search", f"hydra.sweep.dir={tmp_path / 'found'}", "hydra.job.name=train"]
            cfg = compose("train", [*whole, *more], return_hydra_config=True)
        given = {key: cfg.hydra.sweeper[key] for key in cfg.hydra.sweeper if key not in ("_target_", "_recursive_")}
        search: Any = Search(**{**given, "storage": trials, "n_jobs": 1, **settings})
        search.whole = search.config = cfg
        search.hydra_context, search.sweep_dir = object(), str(tmp_path / "found")
        search.launcher = launcher = Launcher(breaks)
        with pytest.raises(PowerCut) if breaks is not None else nullcontext():
            search.sweep(list(words))
        return launcher.asked

    begin.study = lambda: optuna.load_study(study_name="train", storage=trials)
    return begin


def test_a_grid_that_was_broken_off_has_each_point_once(start):
    words = ("algo=maml", "algo.steps=range(1,4)", "algo.adapt_norm=choice(true,false)")
    more, known = ("algo=maml", "hydra/sweeper/sampler=grid"), set[tuple[str, str]]()
    for breaks in (2, 4, None):
        asked = start(*words, breaks=breaks, more=more, n_trials=20)
        known_now = [(each["algo.steps"], each["algo.adapt_norm"]) for each in asked]
        assert len(set(known_now)) == len(known_now)
        assert not known & set(known_now)
        known |= set(known_now)
    assert known == {(step, norm) for step in "123" for norm in ("True", "False")}
    assert start(*words, more=more, n_trials=20) == []
    with pytest.raises(UserError, match=r"grid tries every point, and algo\.lr has endlessly many"):
        start("algo.lr=interval(0.1,0.2)", more=more)


def test_a_part_of_a_grid_goes_on_with_the_rest(start):
    words, more = ("algo=maml", "algo.steps=1,2,3,4"), ("algo=maml", "hydra/sweeper/sampler=grid")
    asked = [each["algo.steps"] for count in (3, 4) for each in start(*words, more=more, n_trials=count)]
    assert sorted(asked) == ["1", "2", "3", "4"]


def test_draws_do_not_recur_with_a_seed_of_the_samplers_own(start):
    more = ("hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=3")
    asked = [start("optim.lr=interval(0.001,0.1)", more=more, n_trials=count) for count in (2, 4)]
    assert [len(each) for each in asked] == [2, 2]
    assert len({each["optim.lr"] for each in (*asked[0], *asked[1])}) == 4


def test_trials_of_a_broken_batch_that_had_finished_are_not_trained_again(start, tmp_path):
    words = ("optim.lr=interval(0.001,0.1)",)
    assert len(start(*words, breaks=2, n_trials=3, n_jobs=3)) == 2
    rates = [trial.params["optim.lr"] for trial in start.study().trials]
    for number, (value, lr) in enumerate([(0.25, rates[0]), (0.5, 0.99), (None, rates[2])]):
        folder = tmp_path / "found" / str(number)
        folder.mkdir()
        job = sweeps.Job(str(folder), number, [f"optim.lr={lr}"], "done", value=value)
        (folder / sweeps.RECORD).write_text(json.dumps(asdict(job)))
    asked = start(*words, n_trials=3)
    assert [float(each["optim.lr"]) for each in asked] == rates[1:]  # another job's value, and none, are no trial's
    trials = start.study().trials
    assert [trial.value for trial in trials] == [0.25, None, None, 3.0, 4.0]
    assert start.study().user_attrs["killed"] == [1, 2]


def test_the_value_of_a_job_in_this_process_is_written_down(tmp_path, monkeypatch):
    from metalab.cli.search.sweeper import _valued

    this = sweeps.Job(str(tmp_path), 4, ["optim.lr=0.1"], "done")
    monkeypatch.setattr(sweeps, "this_job", lambda state: this)
    assert _valued(lambda cfg: cfg / 2, 0.5) == 0.25
    found = sweeps.read_job(tmp_path)
    assert found is not None
    assert (found.number, found.state, found.value) == (4, "done", 0.25)


def test_a_pickled_state_is_not_read_from_a_folder(start):
    pytest.importorskip("cmaes")
    more, words = ("hydra/sweeper/sampler=cmaes",), ("optim.lr=interval(0.001,0.1)",)
    assert len(start(*words, more=more, n_trials=1)) == 1
    with pytest.raises(UserError, match=r"cmaes would run whatever code its state in search\.db holds"):
        start(*words, more=more, n_trials=2)
    assert len(start(*words, n_trials=2)) == 1  # another sampler reads none


def test_what_a_yaml_fixes_holds_and_what_is_typed_wins(start):
    params = {"algo.lr": "interval(0.1,0.2)", "algo.steps": 2, "algo.adapt_norm": None, "optim.lr": 0.01}
    typed = ("algo=maml", "optim.lr=choice(0.5,0.6)")
    [asked] = start(*typed, params=params, more=("algo=maml",), n_trials=1)
    assert asked.pop("optim.lr") in ("0.5", "0.6")
    assert 0.1 <= float(asked.pop("algo.lr")) <= 0.2
    assert asked == {"algo": "maml", "algo.steps": "2", "algo.adapt_norm": "null"}
    fixed = r"algo\.steps=2 algo\.adapt_norm=null over algo\.lr, optim\.lr; now it is .* algo\.steps=3 "
    with pytest.raises(UserError, match=f"holds another search .*{fixed}"):
        start(*typed, params={**params, "algo.steps": 3}, more=("algo=maml",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_trials": "ten"}, "n_trials=ten: expected a whole number, 1 or more"),
        ({"n_trials": None}, "n_trials=null: expected a whole number, 1 or more"),
        ({"n_trials": 2.5}, "n_trials=2.5: expected a whole number, 1 or more"),
        ({"n_trials": True}, "n_trials=True: expected a whole number, 1 or more"),
        ({"n_jobs": 0}, "n_jobs=0: expected a whole number, 1 or more, or -1 for as many as there are cores"),
        ({"max_failure_rate": 2}, "max_failure_rate=2: expected a share of a batch's trials, 0 to 1"),
        ({"max_failure_rate": "all"}, "max_failure_rate=all: expected a share of a batch's trials, 0 to 1"),
    ],
)
def test_settings_of_the_sweeper_that_are_none(start, settings, message):
    with pytest.raises(UserError, match=f"^hydra.sweeper.{re.escape(message)}$"):
        start("optim.lr=interval(0.001,0.1)", **settings)


def test_a_function_of_ones_own_varies_alone(start):
    assert [*start(custom_search_space=f"{__name__}.vary_lr", n_trials=1)[0]] == ["optim.lr"]


def test_a_function_of_ones_own_does_not_vary_what_is_measured(start):
    with pytest.raises(UserError, match=r"custom_search_space varies task\.shot, by which the trials are measured"):
        start(custom_search_space=f"{__name__}.vary_shot", n_trials=1)


def test_a_study_without_a_name_is_one_study(start):
    words = ("optim.lr=interval(0.001,0.1)",)
    assert len(start(*words, study_name=None, n_trials=2)) == 2
    assert len(start(*words, study_name=None, n_trials=3)) == 1


def vary_lr(config: Any, trial: Any) -> None:
    trial.suggest_float("optim.lr", 0.1, 0.2)


def vary_shot(config: Any, trial: Any) -> None:
    trial.suggest_int("task.shot", 1, 2)


def test_the_lock_is_seen_before_anything_is_written(tmp_path):
    from omegaconf import OmegaConf

    from metalab.cli.search.lock import LOCK, RefuseSearchedFolder, locked

    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "found")}}})
    RefuseSearchedFolder().on_multirun_start(config)
    assert not (tmp_path / "found").exists()
    with locked(tmp_path / "found"), pytest.raises(SystemExit, match="found is being searched by another process"):
        RefuseSearchedFolder().on_multirun_start(config)
    Path(tmp_path / "found" / LOCK).touch()  # of a process that was killed
    RefuseSearchedFolder().on_multirun_start(config)
