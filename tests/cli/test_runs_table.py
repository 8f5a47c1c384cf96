"""`metalab runs`."""

import json

import pytest

from metalab.training import train
from tests.tracking.test_run_states import made


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "outputs/train/a", finished="2026-11-01T01:00:00+00:00", steps=100)
    made(tmp_path / "outputs/train/b", failed="step 3: the loss is nan")
    return tmp_path


def test_a_table_of_all_runs(bench, outputs):
    code, out, err = bench("runs")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["run", "state", "step", "best", "val,", "%", "age", "command"]
    row = next(line for line in lines if "outputs/train/a" in line)
    assert row.split()[1:4] == ["finished", "100/100", "50.00"]
    assert "step 3: the loss is nan" in out
    assert lines[-1] == "1 finished, 1 failed"


def test_filters_folders_and_json(bench, outputs):
    code, out, _ = bench("runs", "--json", "outputs/train/b", "algo=fomaml")
    (record,) = json.loads(out)
    assert code == 0
    assert (record["run"], record["state"], record["settings"]["seed"]) == ("outputs/train/b", "failed", 0)
    assert record["age"] > 0
    assert bench("runs", "algo=protonet")[:2] == (0, "none of 2 runs below outputs/train\n")
    assert json.loads(bench("runs", "--json", "algo=protonet")[1]) == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["sed=1"], 2, "sed=1: none of the 2 runs has a setting sed. Did you mean seed?"),
        (["--jason"], 2, "'--jason': metalab runs takes folders, KEY=VALUE and --json"),
        (["algo="], 2, "'algo=': expected a value"),
        (["nowhere"], 1, "there is no folder nowhere in"),
    ],
)
def test_mistakes(bench, outputs, words, code, message):
    ended, out, err = bench("runs", *words)
    assert (ended, out) == (code, "")
    assert message in err


def test_without_any_run(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bench("runs")[:2] == (0, "no run below outputs/train; train one: metalab train\n")
    assert json.loads(bench("runs", "--json")[1]) == []


def test_help(bench):
    code, out, _ = bench("runs", "--help")
    assert code == 0
    assert out.startswith("usage: metalab runs [FOLDER ...]")


def test_what_broke_a_training_off_is_written_down_and_forgotten_when_it_goes_on(small, tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a cable was pulled")

    with monkeypatch.context() as patch:
        patch.setattr(train.loop, "fit", broken)
        with pytest.raises(RuntimeError):
            train.run(small(), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["failed"] == "RuntimeError: a cable was pulled"
    assert "finished" not in record
