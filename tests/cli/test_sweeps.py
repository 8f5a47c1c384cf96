"""What the jobs of a sweep came to is read from their folders, so that it is right under every launcher."""

import csv
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from metalab.cli import sweep_summary, sweeps
from metalab.cli.job_records import PLAN, RECORD, Job, Sweep, process, read_job, read_plan, write
from metalab.cli.sweeps import NOTE, NoteSweep
from metalab.tracking.run_lock import locked_run
from tests.cli.bench import run


@pytest.fixture
def begun(tmp_path, monkeypatch) -> Path:
    """A sweep that has begun in a folder which an earlier one had as well."""
    monkeypatch.delenv(NOTE, raising=False)
    (tmp_path / "9").mkdir()
    sweeps.record(Job(str(tmp_path / "9"), 9, ["seed=9"], "failed", "of another sweep", sweep="another"))
    monkeypatch.setattr("metalab.cli.stopping.install", lambda launcher: None)
    monkeypatch.setattr("sys.argv", ["metalab", "train"])
    compose = OmegaConf.create(
        {
            "hydra": {
                "sweep": {"dir": str(tmp_path), "subdir": "${hydra.job.num}"},
                "sweeper": {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": None},
                "launcher": {"_target_": sweeps.IN_ORDER},
                "overrides": {"task": ["seed=2,10"], "hydra": []},
            }
        }
    )
    NoteSweep().on_multirun_start(compose)
    return tmp_path


def test_the_jobs_of_this_sweep_are_read_by_number_and_no_others(begun):
    plan = sweeps.current()
    assert plan is not None
    assert (plan.jobs, plan.stopped) == ([["seed=2"], ["seed=10"]], False)
    for number in (10, 2):
        folder = begun / f"lr={number}" / "deeper"
        folder.mkdir(parents=True)
        sweeps.record(Job(str(folder), number, [f"seed={number}"], "running", sweep=plan.id))
    sweeps.record(Job(str(begun / "lr=2" / "deeper"), 2, ["seed=2"], "failed", "no luck", sweep=plan.id))
    (begun / "cut").mkdir()
    (begun / "cut" / RECORD).write_text('{"folder": ')
    assert [(job.name, job.state, job.message) for job in sweeps.jobs()] == [
        ("#2 seed=2", "failed", "no luck"),
        ("#10 seed=10", "running", ""),
    ]
    sweeps.stop()
    assert sweeps.current() == replace(plan, stopped=True)
    sweeps.forget()
    assert sweeps.jobs() == []
    assert (begun / PLAN).exists()  # resume= reads it


def test_a_plan_that_another_command_writes_there_is_not_this_ones(begun):
    plan = sweeps.current()
    assert plan is not None
    write(begun / PLAN, Sweep("its", "train", [["seed=5"]], stopped=True))
    now = sweeps.current()
    assert now is not None
    assert (now.id, now.stopped) == (plan.id, False)
    sweeps.stop()
    assert read_plan(begun) == Sweep("its", "train", [["seed=5"]], stopped=True)


def another_sweep(folder: Path, state: str, **job) -> None:
    (folder / "0").mkdir()
    write(folder / PLAN, Sweep("its", "train", [["seed=1"]]))
    write(folder / "0" / RECORD, Job(str(folder / "0"), 0, ["seed=1"], state, sweep="its", **job))  # type: ignore[arg-type]


def test_a_folder_with_a_sweep_that_runs_or_has_trained_takes_no_other(tmp_path):
    another_sweep(tmp_path, "running", **process(os.getppid()))
    refused = sweeps._refusal(tmp_path, "train", [["seed=1"]])
    assert f"{tmp_path} holds a sweep that still runs (#0 seed=1: process {os.getppid()} on" in str(refused)
    write(tmp_path / "0" / RECORD, Job("", 0, ["seed=1"], "failed", sweep="its"))
    assert sweeps._refusal(tmp_path, "train", [["seed=1"]]) is None  # it failed before there was a run
    assert "holds a sweep of metalab train" in str(sweeps._refusal(tmp_path, "eval", [["run=a"]]))
    (tmp_path / "0" / "last.pt").touch()
    refused = sweeps._refusal(tmp_path, "train", [["seed=1"]])
    assert f"already holds a sweep: metalab train resume={tmp_path} goes on" in str(refused)
    write(tmp_path / PLAN, Sweep("its", "train", None))
    assert sweeps._refusal(tmp_path, "train", None) is None  # a search goes on by the same words
    write(tmp_path / PLAN, Sweep("its", "train", None, **process(os.getppid())))
    assert f"still runs (process {os.getppid()} on" in str(sweeps._refusal(tmp_path, "train", None))


@pytest.mark.parametrize("held", [True, False], ids=["that is written", "that is there"])
def test_a_job_does_not_take_the_folder_of_a_run_that_is_no_sweeps(tmp_path, held):
    """Hydra wrote the job's .hydra over the run's before the job was refused."""
    other = tmp_path / "1"
    with locked_run(other) if held else nullcontext(other.mkdir()):
        if not held:
            (other / "last.pt").touch()
        with pytest.raises(SystemExit, match="is being written by process" if held else "already holds a run"):
            sweeps._refuse_taken_folders(tmp_path, "train", [["seed=1"], ["seed=2"]])
        sweeps._refuse_taken_folders(tmp_path, "train", [["seed=1"]])


def test_a_refused_sweep_changes_nothing(begun, monkeypatch):
    monkeypatch.setattr("sys.argv", ["metalab", "eval"])
    before = (begun / PLAN).read_bytes()
    config = OmegaConf.create(
        {
            "hydra": {
                "sweep": {"dir": str(begun)},
                "sweeper": {"_target_": "another.Sweeper"},
                "launcher": {"_target_": sweeps.IN_ORDER},
                "overrides": {"task": ["run=a,b"]},
            }
        }
    )
    with pytest.raises(SystemExit, match=r"metalab: .* holds a sweep of metalab"):
        NoteSweep().on_multirun_start(config)
    assert (begun / PLAN).read_bytes() == before


@pytest.mark.parametrize("state", ["running", "done"])
def test_the_record_of_another_sweeps_job_stays(tmp_path, state):
    another_sweep(tmp_path, state, **process(os.getppid()))
    (tmp_path / "0" / "last.pt").touch()
    sweeps.record(Job(str(tmp_path / "0"), 0, ["seed=1"], "failed", "already holds a run", sweep="ours"))
    assert [job.state for job in sweeps.jobs_below(tmp_path)] == [state]


def test_a_process_with_the_number_of_one_that_has_ended_is_another(tmp_path):
    job = Job(str(tmp_path), 0, [], "running", **process(os.getppid()))
    assert job.alive
    assert not replace(job, started=5).alive
    assert not replace(job, **process(os.getpid())).alive  # who asks has left its job


@pytest.mark.parametrize(
    "wrong", [{"number": "0"}, {"words": "seed=1"}, {"words": [1]}, {"pid": "x"}, {"state": "so"}, {"folder": None}]
)
def test_a_foreign_file_is_no_record(tmp_path, wrong):
    made = {"folder": "x", "number": 0, "words": ["seed=1"], "state": "done", "pid": 5}
    (tmp_path / RECORD).write_text(json.dumps(made))
    assert read_job(tmp_path) == Job(str(tmp_path), 0, ["seed=1"], "done", pid=5)
    (tmp_path / RECORD).write_text(json.dumps({**made, **wrong}))
    assert read_job(tmp_path) is None
    for text in ('{"id": "x", "command": 5, "jobs": []}', '{"id": "x", "command": "train", "jobs": [5]}', "[5]"):
        (tmp_path / PLAN).write_text(text)
        assert read_plan(tmp_path) is None


def test_an_older_sweeps_job_is_not_one_that_began(begun, capsys, monkeypatch):
    monkeypatch.chdir(begun)
    plan = sweeps.current()
    assert plan is not None
    for name, sweep in (("0", plan.id), ("1", "another")):
        (begun / name).mkdir()
        sweeps.record(Job(str(begun / name), int(name), [f"seed={name}"], "stopped", "stopped by SIGINT", sweep=sweep))
    sweep_summary.tell("eval")
    assert capsys.readouterr().err == (
        "metalab: 2 of the sweep's jobs came to no end:\n  #0 seed=0: stopped by SIGINT\n  #1 seed=10: never began\n"
    )


def test_a_process_that_has_ended_does_not_live():
    assert sweeps.process_lives(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", ""])
    while sweeps.process_lives(child.pid):  # it ends, and nobody has collected it
        time.sleep(0.01)
    child.wait()
    assert not sweeps.process_lives(child.pid)


def test_without_a_sweep_there_are_no_jobs(monkeypatch):
    monkeypatch.delenv(NOTE, raising=False)
    assert sweeps.jobs() == []
    sweeps.forget()


@pytest.mark.slow
def test_jobs_in_processes_of_their_own_are_told_as_those_in_this_one_are(tmp_path, tiny_dir):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    tiny = (f"--config-dir={tiny_dir}", "data=tiny", "device=cpu", "backbone.filters=4", "task.train_way=5")
    words = (*tiny, "train.steps=2", "train.val_every=2", "train.val_episodes=2", "task.query=2")
    path = f"{tiny_dir}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    train = run("train", *words, "hydra.run.dir=one", cwd=tmp_path, PYTHONPATH=path)
    assert train.returncode == 0, train.stderr
    joblib = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=swept")
    choices = ("run=one", "eval.split=val", "eval.episodes=2,3", "eval.bn=running,batch,nothing")
    done = run("eval", tiny[0], *joblib, *choices, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 1
    assert "metalab: 2 of the sweep's jobs failed:\n  #2 " in done.stderr
    assert "Traceback" not in done.stderr
    with (tmp_path / "swept" / "matrix.csv").open(newline="") as file:
        assert [row["words"] for row in csv.DictReader(file)] == [
            f"eval.episodes={episodes} eval.bn={bn}" for episodes in (2, 3) for bn in ("running", "batch")
        ]
    several = (*joblib[:3], *words[1:], "hydra.sweep.dir=trained", "seed=1,2")
    more = run("train", tiny[0], *several, cwd=tmp_path, PYTHONPATH=path)
    assert more.returncode == 0, more.stderr
    commands = [json.loads(path.read_text())["command"] for path in (tmp_path / "trained").glob("*/run.json")]
    assert len(commands) == 2
    assert all(command.endswith("hydra.sweep.dir=trained seed=1,2") for command in commands)  # what was typed
