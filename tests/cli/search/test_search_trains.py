"""Searches that really train: what they leave behind, what they never read, and what a kill or two processes do."""

import csv
import importlib
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from metalab.core.errors import UserError
from tests.cli.bench import METALAB
from tests.conftest import SMALL

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="metalab[sweep] is not installed")
SEARCH = ("-m", "search=protonet", "task.train_way=choice(5,8)", "hydra.sweep.dir=found")


def trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_search_reads_no_test_image_and_leaves_pictures_and_its_best(
    tiny_dir, tmp_path, monkeypatch, command_line, caplog
):
    Tiny = importlib.import_module("tiny_parts").Tiny

    with pytest.raises(UserError, match="the test split of tiny was asked for"):  # what the search would run into
        Tiny(12, 16, 1, 0, "test").load("test")
    loaded, load = [], Tiny.load
    monkeypatch.setattr(Tiny, "load", lambda self, split: (loaded.append(split), load(self, split))[1])
    monkeypatch.chdir(tmp_path)
    small = [word for word in SMALL if not word.startswith("task.train_way")]
    words = (f"--config-dir={tiny_dir}", *SEARCH, *small, "train.prune_after=2", "hydra.sweeper.n_trials=3")
    code, said = command_line("train", *words)
    assert code == 0, said
    assert set(loaded) == {"train", "val"}
    assert not {"test"} & set(loaded)
    found = trials(Path("found"))
    assert len(found) == 3
    values = [json.loads(line) for line in Path("found/0/metrics.jsonl").read_text().splitlines()]
    assert float(found[0]["accuracy"]) == max(row.get("val/accuracy", 0) for row in values)
    for name in ("history.png", "slices.png", "importances.png"):
        assert Path("found", name).read_bytes()[:4] == b"\x89PNG", said
    program, *again = shlex.split(Path("found/best.sh").read_text())
    assert program == "metalab"
    assert "algo=protonet" in again
    best = max(found, key=lambda row: float(row["accuracy"]))
    code, said = command_line(*again, "hydra.run.dir=again")
    assert code == 0, said
    rows = [json.loads(line) for line in Path("again/metrics.jsonl").read_text().splitlines()]
    assert max(row.get("val/accuracy", 0) for row in rows) == float(best["accuracy"])


def run(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*METALAB, *words], capture_output=True, text=True, cwd=cwd, env={**os.environ, **env})


def typed(tiny_dir: Path, *words: str) -> tuple[str, ...]:
    small = [word for word in SMALL if not word.startswith("task.train_way")]
    return ("train", f"--config-dir={tiny_dir}", *SEARCH, *small, *words)


@pytest.mark.slow
def test_a_killed_search_goes_on_with_the_trial_that_was_broken_off(tiny_dir, tmp_path):
    path = f"{tiny_dir}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    words = typed(tiny_dir, "engine=doomed", "hydra.sweeper.n_trials=4")
    killed = run(*words, cwd=tmp_path, PYTHONPATH=path, TINY_SIGNAL="9@7")  # in the second trial, of 4 steps each
    assert killed.returncode == -9
    found = tmp_path / "found"
    assert not (found / "trials.csv").exists()
    done = run(*words, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "found has 1 of 4 trials: the search goes on" in done.stdout
    rows = trials(found)
    assert [row["state"] for row in rows] == ["complete", "killed", "complete", "complete", "complete"]
    keys = ("optim.lr", "algo.temperature", "task.train_way")
    assert [rows[1][key] for key in keys] == [rows[2][key] for key in keys]
    assert len({rows[i]["optim.lr"] for i in (0, 2, 3, 4)}) == 4
    assert sorted(folder.name for folder in found.iterdir() if folder.is_dir()) == ["0", "1", "2", "3", "4"]


@pytest.mark.slow
def test_trials_run_side_by_side_in_processes_of_their_own(tiny_dir, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    path = f"{tiny_dir}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    two = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_trials=3")
    done = run(*typed(tiny_dir, *two, "train.prune_after=2"), cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    rows = trials(tmp_path / "found")
    assert len(rows) == 3
    assert all(row["accuracy"] for row in rows)
    records = [json.loads((tmp_path / "found" / str(i) / "run.json").read_text()) for i in range(3)]
    assert done.stdout.count("is launching 2 jobs") == 1
    assert records[2]["started"] >= max(each["finished"] for each in records[:2])  # chosen when these were known
