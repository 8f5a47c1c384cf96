"""What the jobs of a sweep came to is read from their folders, so that it is right under every launcher."""

import csv
import json
import os
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from metalab.cli import sweeps
from metalab.cli.sweeps import FOLDER, MARK, RECORD, Job, NoteSweep
from tests.cli.bench import run


@pytest.fixture
def begun(tmp_path, monkeypatch) -> Path:
    """A sweep that has begun in a folder which an earlier one had as well."""
    monkeypatch.delenv(FOLDER, raising=False)
    (tmp_path / "9").mkdir()
    sweeps.record(Job(str(tmp_path / "9"), 9, ["seed=9"], "failed", "of another sweep"))
    earlier = time.time() - 60
    os.utime(tmp_path / "9" / RECORD, (earlier, earlier))
    NoteSweep().on_multirun_start(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    return tmp_path


def test_the_jobs_of_this_sweep_are_read_by_number_and_no_others(begun):
    for number in (10, 2):
        folder = begun / f"lr={number}" / "deeper"
        folder.mkdir(parents=True)
        sweeps.record(Job(str(folder), number, [f"seed={number}"], "running"))
    sweeps.record(Job(str(begun / "lr=2" / "deeper"), 2, ["seed=2"], "failed", "no luck"))
    (begun / "cut").mkdir()
    (begun / "cut" / RECORD).write_text('{"folder": ')
    assert [(job.name, job.state, job.message) for job in sweeps.jobs()] == [
        ("#2 seed=2", "failed", "no luck"),
        ("#10 seed=10", "running", ""),
    ]
    sweeps.forget()
    assert sweeps.jobs() == []
    assert not (begun / MARK).exists()


def test_without_a_sweep_there_are_no_jobs(monkeypatch):
    monkeypatch.delenv(FOLDER, raising=False)
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
