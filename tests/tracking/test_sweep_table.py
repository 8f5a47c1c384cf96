"""A sweep of evaluations ends in one table: runs down the side, what they were tested on across the top."""

import csv
import json

import pytest

from metalab.training import train


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    for name, words in {"one": (), "two": ("data.size=20", "seed=1")}.items():
        train.run(small("train.steps=1", "train.val_episodes=2", *words), home / name)
    return home


@pytest.mark.slow
def test_a_sweep_over_runs_and_data_collects_its_matrix(command_line, runs, tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("-m", f"run={runs / 'one'},{runs / 'two'}", "data.absent=''", "eval.split=test,val,train", "device=cpu")
    code, said = command_line("eval", *words, "hydra.sweep.dir=sweep", f"--config-dir={tiny_dir}")
    assert code == 1, said  # some jobs failed
    with (tmp_path / "sweep" / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    cells = [(row["run"], row["words"]) for row in rows]
    columns = ["eval.split=test", "eval.split=val"]
    assert cells == [(str(runs / name), column) for name in ("one", "two") for column in columns]
    for number, row in zip((0, 1, 3, 4), rows, strict=True):  # the jobs with eval.split=train were refused
        record = json.loads((tmp_path / "sweep" / str(number) / "eval.json").read_text())
        assert float(row["accuracy"]) == record["accuracy"]
        assert float(row["ci95"]) == record["ci95"]
        assert (row["trained_on"], row["data"], row["split"]) == ("tiny", "tiny", record["split"])
        assert f"{100 * record['accuracy']:.2f} ± {100 * record['ci95']:.2f}" in said
    assert "metalab: 2 of the sweep's jobs failed" in said
    assert "sweep/matrix.csv" in said.replace("\n", "")


@pytest.mark.slow
def test_a_sweep_over_data_is_a_row_of_the_cross_domain_matrix(command_line, runs, tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "cache"))
    words = (f"run={runs / 'one'}", "data=tiny,glyphs", "data.images=12", "task.query=3", "device=cpu")
    words += ("eval.split=val", "eval.episodes=4", "hydra.sweep.dir=sweep", f"--config-dir={tiny_dir}")
    code, said = command_line("eval", "-m", *words)
    assert code == 0, said
    with (tmp_path / "sweep" / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["words"], row["trained_on"], row["data"]) for row in rows] == [
        ("data=tiny", "tiny", "tiny"),
        ("data=glyphs", "tiny", "glyphs"),
    ]


@pytest.mark.slow
def test_one_survivor_of_several_is_still_told(command_line, runs, tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (f"run={runs / 'one'}", "data.absent=''", "eval.split=train,test", "device=cpu", "hydra.sweep.dir=sweep")
    code, said = command_line("eval", "-m", *words, f"--config-dir={tiny_dir}")
    assert code == 1, said  # eval.split=train was refused
    with (tmp_path / "sweep" / "matrix.csv").open() as file:
        assert [row["words"] for row in csv.DictReader(file)] == ["eval.split=test"]
    assert "accuracy, %" in said
    assert "metalab: 1 of the sweep's jobs failed" in said
    assert command_line("eval", "-m", *words[:2], "eval.split=train", *words[3:4], "hydra.sweep.dir=none")[0] == 1
    assert not (tmp_path / "none" / "matrix.csv").exists()


def test_one_evaluation_is_no_matrix(command_line, runs, tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (f"run={runs / 'one'}", "data.absent=''", "device=cpu", "hydra.run.dir=out")
    code, said = command_line("eval", f"--config-dir={tiny_dir}", *words)
    assert code == 0, said
    assert not (tmp_path / "matrix.csv").exists()
    assert "trained on" in said
