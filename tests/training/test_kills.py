"""What kills, moved folders and odd files in a run's folder leave behind, and how the run goes on."""

import json
import logging
import shutil
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from metalab.config import run_config
from metalab.core.errors import UserError
from metalab.tracking import checkpoint
from metalab.tracking.run_folder import find_run
from metalab.training import loop, train
from tests.training.test_resume import assert_same_run

WORDS = ("train.steps=4", "train.val_every=2", "reg=dropout")


@pytest.fixture
def killed(small, tmp_path, monkeypatch) -> Path:
    """A run that ended between best.pt and last.pt of its first validation."""
    whole = checkpoint.save

    def stopped(path, state):
        if path.name == "last.pt":
            raise KeyboardInterrupt
        whole(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            train.run(small(*WORDS), tmp_path / "cut")
    assert (tmp_path / "cut/best.pt").is_file()
    assert not (tmp_path / "cut/last.pt").exists()
    return tmp_path / "cut"


def test_a_run_killed_between_its_first_two_checkpoints_goes_on(killed, small, tmp_path):
    train.run(small(*WORDS), tmp_path / "whole")
    with pytest.raises(UserError, match=r"already holds a run \(best\.pt\): go on with it, as metalab train resume="):
        train.run(small(*WORDS), killed)
    train.run(small(*WORDS, f"resume={killed}"), killed)
    assert_same_run(killed, tmp_path / "whole")


def test_such_a_run_is_found(killed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_run(killed, "last.pt", "best.pt") == killed
    shutil.move(killed, tmp_path / "outputs/train/cut")
    assert find_run("latest", "last.pt", "best.pt") == Path("outputs/train/cut")
    with pytest.raises(UserError, match=r"no run in .* holds last\.pt"):
        find_run("latest", "last.pt")


def test_what_a_killed_process_left_half_written_is_removed_at_the_next_start(small, tmp_path):
    train.run(small(*WORDS), tmp_path)
    for name in (".best.pt.123.tmp", ".last.pt.99.tmp"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".mine.tmp").touch()
    train.run(small(*WORDS, "train.steps=5", f"resume={tmp_path}"), tmp_path)
    assert [path.name for path in tmp_path.glob(".*.tmp")] == [".mine.tmp"]


@pytest.fixture
def after_step(monkeypatch):
    """Do something after a meta-step; TensorBoard's writer, which opens its file anew each time, is left out."""
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", MagicMock())
    step = loop._step

    def at(number, do):
        def stepped(net, objective, engine, source, outer, plan, state):
            lr = step(net, objective, engine, source, outer, plan, state)
            if state.step == number:
                do()
            return lr

        monkeypatch.setattr(loop, "_step", stepped)

    return at


@pytest.mark.slow
@pytest.mark.parametrize("moved", [True, False])
def test_a_folder_that_is_gone_while_the_run_trains_is_made_anew(small, tmp_path, after_step, caplog, moved):
    out, there = tmp_path / "run", tmp_path / "there"
    train.run(small(*WORDS), tmp_path / "whole")
    after_step(3, lambda: out.rename(there) if moved else shutil.rmtree(out))
    caplog.set_level(logging.INFO, "metalab")
    best = train.run(small(*WORDS), out)
    assert f"{out} was moved or deleted while the run writes into it: it is made anew" in caplog.text
    one, two = (checkpoint.load(folder / "last.pt") for folder in (out, tmp_path / "whole"))
    assert one["state"]["step"] == two["state"]["step"] == 4
    assert all(torch.equal(one["net"][name], two["net"][name]) for name in two["net"])
    assert run_config.read(out)["train"]["steps"] == 4
    assert "command" in json.loads((out / "run.json").read_text())
    assert best == one["state"]["best_accuracy"]
    if moved:
        assert json.loads((there / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4


def test_a_folder_that_is_gone_is_named_where_a_checkpoint_is_to_be_written(tmp_path):
    with pytest.raises(UserError, match=r"gone/last\.pt cannot be written: the folder .*gone was moved or deleted"):
        checkpoint.save(tmp_path / "gone/last.pt", {})


@pytest.mark.parametrize("held", ["[]", "5", '{"resumes": 3}', "[" * 10**5])
def test_a_record_that_is_no_record_is_told_before_the_training(small, tmp_path, monkeypatch, held):
    (tmp_path / "run.json").write_text(held)
    monkeypatch.setattr(loop, "fit", lambda *given: pytest.fail("trained"))
    with pytest.raises(UserError, match=r"run\.json: expected .*; mend or delete it"):
        train.run(small(*WORDS), tmp_path)


@pytest.mark.parametrize("name", ["episode.png", "adaptation.png", "metrics.jsonl", "run.json", "config.yaml"])
def test_a_folder_in_the_place_of_a_file_is_told_before_the_training(small, tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.setattr(loop, "fit", lambda *given: pytest.fail("trained"))
    with pytest.raises(UserError, match=f"{name} is a folder, and a run writes a file of that name: move it away"):
        train.run(small(*WORDS), tmp_path)
