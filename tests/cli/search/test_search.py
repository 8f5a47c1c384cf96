"""search=METHOD: its words, its trials, that it goes on, and what it leaves behind; training is a formula here."""

import csv
import errno
import math
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from metalab.cli import sweeps
from metalab.cli.search import words
from metalab.config.paths import conf_dir
from metalab.core.errors import UserError

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="metalab[sweep] is not installed")
FOLDER = ("hydra.sweep.dir=found",)


@pytest.fixture
def search(bench, monkeypatch):
    """Search with a training that is a formula: the best algo.lr is 0.1, and pictures are not drawn."""

    def train(cfg, out: Path) -> float:
        bench.trained.append((cfg, out))
        if error := bench.fail and bench.fail(cfg):
            raise error
        return math.exp(-abs(math.log(cfg.algo.lr / 0.1)))

    monkeypatch.setattr("metalab.training.train.run", train)
    monkeypatch.setattr("metalab.cli.search.figures.save_figures", lambda study, folder: [])
    monkeypatch.setattr("metalab.cli.search.command.best_command", lambda *_: "metalab train")
    return bench


def compose_train(*overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("train", list(overrides))


def trials(folder: str = "found") -> list[dict[str, str]]:
    with (Path(folder) / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_highest_is_sought_and_found_again(search):
    asked = ("-m", "search=maml", "algo.steps=1", "algo.adapt_norm=false", "optim.lr=0.002", *FOLDER)
    code, out, err = search("train", *asked, "hydra.sweeper.n_trials=4")
    assert (code, err) == (0, "")
    tried = [cfg.algo.lr for cfg, _ in search.trained]
    assert len(tried) == 4
    assert all(0.02 <= lr <= 2.0 for lr in tried)
    assert {(cfg.algo.steps, cfg.algo.adapt_norm, cfg.optim.lr) for cfg, _ in search.trained} == {(1, False, 0.002)}
    best = min(tried, key=lambda lr: abs(math.log(lr / 0.1)))
    assert OmegaConf.load("found/optimization_results.yaml").best_params == {"algo.lr": best}
    assert f"best: trial {tried.index(best)}, " in out
    assert [float(row["algo.lr"]) for row in trials()] == tried
    search.trained.clear()
    assert search("train", *asked[:-1], "hydra.sweep.dir=twice", "hydra.sweeper.n_trials=2")[0] == 0
    assert [cfg.algo.lr for cfg, _ in search.trained] == tried[:2]  # the run's seed is the sampler's
    search.trained.clear()
    assert search("train", *asked[:-1], "hydra.sweep.dir=other", "seed=1", "hydra.sweeper.n_trials=1")[0] == 0
    assert search.trained[0][0].algo.lr != tried[0]


@pytest.mark.slow
def test_it_goes_on_in_its_folder_to_so_many_trials_in_all(search):
    asked = ("-m", "search=anil", "optim.lr=0.001", "algo.steps=1", *FOLDER)
    assert search("train", *asked, "hydra.sweeper.n_trials=3")[0] == 0
    search.fail = lambda cfg: SystemExit(130)
    code, _, stopped = search("train", *asked, "hydra.sweeper.n_trials=5")
    assert code == 130
    assert "metalab train resume=" not in stopped
    broken = search.trained[-1][0].algo.lr
    search.fail = None
    code, out, _ = search("train", *asked, "hydra.sweeper.n_trials=5")
    assert code == 0
    assert "found has 3 of 5 trials: the search goes on" in out
    assert [path.name for _, path in search.trained] == ["0", "1", "2", "3", "4", "5"]
    rates = [cfg.algo.lr for cfg, _ in search.trained]
    assert "metalab: the same command with hydra.sweep.dir=found goes on" in stopped
    assert rates[4] == broken  # asked again
    assert len(set(rates)) == 5  # and no draw of the first start's comes again
    assert [row["state"] for row in trials()] == ["complete"] * 3 + ["killed"] + ["complete"] * 2
    count = len(search.trained)
    assert search("train", *asked, "hydra.sweeper.n_trials=5")[0] == 0
    assert len(search.trained) == count  # nothing is left to do
    code, _, err = search("train", *asked, "task.shot=5", "hydra.sweeper.n_trials=6")
    assert code == 1
    assert "found holds another search (algo.steps=1 optim.lr=0.001 search=anil over algo.lr; now it is" in err
    assert len(search.trained) == count


@pytest.mark.slow
def test_failed_trials_are_told_and_do_not_end_it(search):
    search.fail = lambda cfg: UserError("step 7: the loss is nan") if cfg.algo.lr > 0.4 else None
    asked = ("-m", "search=anil", "optim.lr=0.001", "algo.steps=1", *FOLDER, "hydra.sweeper.n_trials=4")
    code, out, err = search("train", *asked)
    failed = [i for i, (cfg, _) in enumerate(search.trained) if cfg.algo.lr > 0.4]
    assert 0 < len(failed) < 4
    assert code == 0  # the search as a whole came to its end
    assert f"metalab: {len(failed)} of the sweep's jobs failed:\n  #{failed[0]} algo.lr=" in err
    assert out.count("4 trials: ") == 1
    assert f"{len(failed)} failed" in out
    assert [i for i, row in enumerate(trials()) if row["state"] == "failed"] == failed
    assert trials()[failed[0]]["message"] == "step 7: the loss is nan"
    search.fail = lambda cfg: UserError("no such data")
    code, _, err = search("train", *asked[:-2], "hydra.sweep.dir=none", "hydra.sweeper.n_trials=2")
    assert code == 1
    assert [line for line in err.splitlines() if not line.startswith(("  #", "Error executing job"))] == [
        "metalab: 2 of the sweep's jobs failed:",
        "metalab: no trial of the search came to its end: none/trials.csv says why",
    ]


def test_a_full_disk_at_its_end_is_told_though_a_trial_failed(search, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "found/trials.csv")

    monkeypatch.setattr("metalab.cli.search.report.write", full)
    search.fail = lambda cfg: None if len(search.trained) > 1 else UserError("diverged")
    asked = ("-m", "hydra/sweeper=optuna", "optim.lr=interval(0.1,0.2)", "algo=maml", *FOLDER)
    code, _, err = search("train", *asked, "hydra.sweeper.storage=null", "hydra.sweeper.n_trials=2")
    assert code == 1
    assert "metalab: [Errno 28] No space left on device: 'found/trials.csv'" in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("search=maml",), "search=maml trains many runs: type -m as well, as metalab train -m search=maml"),
        (("-m", "search=maml,protonet"), "search=maml,protonet: one search at a time, as search=maml"),
        (("-m", "search=choice(maml,protonet)"), "search=choice(maml,protonet): one search at a time"),
        (("-m", "search=maml", "task.shot=choice(1,5)"), "search=maml varies task.shot, by which the trials are me"),
        (("-m", "search=maml", "seed=1,2"), "search=maml varies seed, by which the trials are measured"),
        (("-m", "search=mamml"), "search=mamml: there is no such option. Did you mean maml?"),
        (
            ("-m", "search=maml", "algo=protonet"),
            "search=maml varies algo.lr, and there is no such setting with algo=p",
        ),
        (("-m", "search=maml", "hydra.sweeper.direction=minimize"), "direction=minimize: metalab train returns an acc"),
        (
            ("-m", "hydra/sweeper=optuna", "algo.foo=1,2"),
            "the search varies algo.foo, and there is no such setting with",
        ),
        (("-m", "hydra/sweeper=optuna", "seed=1"), "nothing is varied: type search=METHOD"),
        (
            ("-m", "search=maml", "hydra.sweeper.n_trials=0"),
            "hydra.sweeper.n_trials=0: expected a whole number, 1 or more",
        ),
    ],
)
def test_what_cannot_be_searched_is_told_before_any_work(search, given, message):
    code, _, err = search("train", *given)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert search.trained == []


def test_optunas_own_name_is_this_sweeper_and_a_yaml_that_minimizes_is_refused(search, tmp_path):
    code, _, err = search(
        "train", "-m", "hydra/sweeper=optuna", "algo=maml", "algo.lr=0.1,0.5", *FOLDER, "hydra.sweeper.n_trials=3"
    )
    assert (code, err) == (0, "")
    assert {cfg.algo.lr for cfg, _ in search.trained} == {0.1, 0.5}
    assert OmegaConf.load("found/optimization_results.yaml").best_params == {"algo.lr": 0.1}
    (tmp_path / "mine/search").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [{override /hydra/sweeper: optuna}]\n"
    (tmp_path / "mine/search/worst.yaml").write_text(text)
    count = len(search.trained)
    code, _, err = search("train", "-m", "--config-dir=mine", "search=worst", "algo=maml", "algo.lr=0.1,0.5")
    assert code == 1
    assert "hydra/sweeper=optuna minimizes, and a job returns its accuracy" in err
    assert len(search.trained) == count


def test_a_missing_package_is_one_line(search, monkeypatch):
    monkeypatch.setattr(words, "NEEDS", ("hydra_plugins.no_such_sweeper",))
    for asked in ("search=maml", "hydra/sweeper=optuna"):
        code, _, err = search("train", "-m", asked)
        assert (code, err) == (1, f"metalab: {asked} needs Optuna: type pip install 'metalab[sweep]'")


def test_an_evaluation_is_not_chosen_by_the_test_split(search):
    OmegaConf.save(compose_train("algo=maml"), "config.yaml")
    Path("best.pt").touch()
    run = "."
    code, _, err = search("eval", "-m", "hydra/sweeper=optuna", f"run={run}", "algo.lr=interval(0.1,0.2)")
    assert code == 1
    assert "type eval.split=val" in err
    code, _, err = search(
        "eval", "-m", "hydra/sweeper=optuna", f"run={run}", "algo.lr=interval(0.1,0.2)", "hydra.job.name=train"
    )
    assert "type eval.split=val" in err
    code, _, err = search("eval", "-m", "search=maml", f"run={run}")
    assert "metalab eval trains nothing" in err
    assert search.evaluated == []


def test_a_folder_that_is_being_searched_is_refused(search):
    from metalab.cli.search import lock

    sweeps.begin(Path("found").absolute(), sweeps.Sweep("", "train", None))
    sweeps.forget()
    before = Path("found/sweep.json").read_text()
    with lock.locked(Path("found")):
        code, _, err = search("train", "-m", "search=maml", *FOLDER)
        assert Path("found/sweep.json").read_text() == before  # by its id the running one knows its jobs
    assert code == 1
    assert "found is being searched by another process" in err
    assert search.trained == []


@pytest.mark.slow
def test_an_own_space_is_printed_as_words_that_train_its_best_again(bench, monkeypatch, tmp_path):
    (tmp_path / "mine/search").mkdir(parents=True)
    (tmp_path / "mine/search/wide.yaml").write_text(
        "# @package _global_\n"
        "defaults: [relation, {override /task: 5way5shot}]\n"
        "train: {val_every: 7}\n"
        "hydra: {sweeper: {params: {algo.hidden: '4,8', algo.pool: sum, optim.clip_norm: 3, optim.schedule: cosine}}}\n"
    )

    def train(cfg, out: Path) -> float:
        bench.trained.append((cfg, out))
        return 0.25 * len(bench.trained)  # the last one is the best

    monkeypatch.setattr("metalab.training.train.run", train)
    monkeypatch.setattr("metalab.cli.search.figures.save_figures", lambda study, folder: [])
    asked = ("--config-dir=mine", "-m", "search=wide", "algo.pool=mean", "hydra.sweeper.n_trials=3", *FOLDER)
    code, out, err = bench("train", *asked, "hydra.job.name=tune")
    assert (code, err) == (0, ""), err
    line = Path("found/best.sh").read_text()
    assert line in out
    program, *typed = shlex.split(line)
    assert (program, typed[0]) == ("metalab", "train")
    assert not any(word.startswith("search=") for word in typed)
    first, best = bench.trained[0][0], bench.trained[2][0]
    assert first.optim.lr != best.optim.lr
    assert bench(*typed)[0] == 0
    again = bench.trained[-1][0]
    assert (again.train.prune_after, best.train.prune_after) == (None, 5)
    best.train.prune_after = None
    assert again == best
    assert (again.train.val_every, again.task.shot, again.optim.schedule) == (7, 5, "cosine")
    assert (again.algo.pool, again.optim.clip_norm) == ("mean", 3)


@pytest.mark.filterwarnings("ignore:.* is experimental")
def test_the_report_shows_values_as_they_are_and_stands_what_cannot_be_made(monkeypatch, tmp_path, capsys):
    import optuna

    from metalab.cli.search import report

    def broken(*_):
        raise ValueError("no such thing")

    monkeypatch.setattr("metalab.cli.search.figures.save_figures", broken)
    monkeypatch.setattr("metalab.cli.search.command.best_command", broken)
    study = optuna.create_study(direction="maximize")
    choices = optuna.distributions.CategoricalDistribution(["[l2]", "[l2,dropout]", ":smile:"])
    for value in (0.2, 0.6, 0.4):
        study.add_trial(
            optuna.create_trial(
                params={"reg": choices.choices[int(5 * value) - 1]}, distributions={"reg": choices}, value=value
            )
        )
    report.write(study, tmp_path, OmegaConf.create(), [])
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert said[:4] == [
        ["trial", "val,", "%", "reg"],
        ["1", "60.00", ":smile:"],
        ["2", "40.00", "[l2,dropout]"],
        ["0", "20.00", "[l2]"],
    ]
    assert " ".join(said[-1]) == "best: trial 1, validation accuracy 60.00 %, which chose it"
    assert (tmp_path / "trials.csv").is_file()
    assert not (tmp_path / "best.sh").exists()


def test_pruning_reads_the_files_that_sweeps_write():
    from metalab.training import pruning

    assert pruning.JOB == sweeps.RECORD
