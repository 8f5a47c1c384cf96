"""Pictures, tables and event files end no run and undo none; a user's matplotlib settings change no picture."""

import json
import logging
import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from metalab.evaluation import evaluate
from metalab.tracking import checkpoint, eval_report, figures, tensorboard_events
from metalab.tracking.tensorboard_events import Events
from metalab.training import train

ATTACKED = ("data.absent=''", "eval.bn=support", "attack=fgsm", "eval.eps=[0,8]", "eval.episodes=4")


def broken(*_, **__):
    raise RuntimeError("latex could not be found\nand much more")


@pytest.mark.slow
def test_a_notebooks_backend_and_a_users_matplotlibrc_change_nothing(small, tmp_path, tiny_dir):
    """MPLBACKEND=module://matplotlib_inline... gave a traceback; text.usetex ended a finished training with 1."""
    settings = tmp_path / "matplotlibrc"
    settings.write_text("text.usetex: True\nsavefig.format: pdf\nfigure.dpi: 20\n")
    env = os.environ | {"MPLBACKEND": "module://no_such_module", "MATPLOTLIBRC": str(settings), "OMP_NUM_THREADS": "1"}
    words = ["train", f"--config-dir={tiny_dir}", *small.words, f"hydra.run.dir={tmp_path / 'run'}"]
    env["PYTHONPATH"] = f"{tiny_dir}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "metalab", *words], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "could not be made" not in done.stdout
    train.run(small(), tmp_path / "plain")
    for name in ("episode.png", "adaptation.png"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_a_users_settings_change_no_picture():
    def drawn() -> list[np.ndarray]:
        drawings = (
            figures.adaptation_curve([0.2, 0.5], [0.01, 0.02], "t", 5),
            figures.robustness_curve({"fgsm": [(0, 0.9, 0.1), (8, 0.5, 0.1)]}, "linf", "t", 5),
        )
        return [figures.pixels(figure) for figure in drawings]

    plain = drawn()
    with matplotlib.rc_context({"text.usetex": True, "figure.dpi": 20, "axes.facecolor": "red", "font.size": 30}):
        assert all(np.array_equal(a, b) for a, b in zip(plain, drawn(), strict=True))


def test_a_training_whose_pictures_fail_is_finished(small, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(figures, "episode", broken)
    train.run(small(), tmp_path)
    assert "finished" in json.loads((tmp_path / "run.json").read_text())
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    expected = (
        "the pictures of the run could not be made (RuntimeError: latex could not be found); the numbers are kept"
    )
    assert said == [expected]


def test_a_training_without_event_files_has_the_same_numbers(small, tmp_path, monkeypatch, caplog):
    train.run(small(), tmp_path / "whole")
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", broken)
    train.run(small(), tmp_path / "none")
    one, other = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "none"))
    assert one["state"]["best"] == other["state"]["best"]
    lines = [(tmp_path / name / "metrics.jsonl").read_text().count("\n") for name in ("whole", "none")]
    assert lines[0] == lines[1] == 4
    assert caplog.text.count("TensorBoard's event file could not be made") == 1  # and not at each of the lines


def test_an_event_file_that_cannot_be_opened_or_cut_is_said(tmp_path, monkeypatch, caplog):
    (tmp_path / "events.out.tfevents.1").mkdir()
    for start in (0, None):
        if start is None:
            monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.__init__", broken)
        written = Events(tmp_path, start)
        written.write(lambda writer: writer.add_scalar("a", 1.0, 1))
        written.close()
        assert tensorboard_events.WHAT in caplog.messages[-1]
    assert len(caplog.messages) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        "metalab.tracking.figures.robustness_curve",
        "metalab.tracking.eval_report._write_scalars",
        "metalab.evaluation.protocols.episodes.episode_report",
        "metalab.tracking.class_report._write_rows",
    ],
)
def test_an_attacked_evaluations_numbers_are_written_before_what_can_fail(small, tmp_path, monkeypatch, caplog, part):
    train.run(small("train.bn=support"), tmp_path / "run")
    monkeypatch.setattr(part, broken)
    cfg = small("train.bn=support", *ATTACKED)
    accuracy = evaluate.run([(tmp_path / "run", cfg)], tmp_path / "eval")
    record = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert record["accuracy"] == accuracy
    assert [attack["eps"] for attack in record["attacks"]] == [0, 8]
    for file in ("episodes.csv", "robustness.csv"):
        assert (tmp_path / "eval" / file).is_file()
    assert "could not be made (RuntimeError: latex could not be found); the numbers are kept" in caplog.text


def test_eval_json_is_there_before_the_other_files(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        eval_report, "_write_episodes", lambda path, _: seen.append((path.parent / "eval.json").is_file())
    )
    facts = dict.fromkeys(eval_report.FACTS) | {"split": "test", "way": 5, "shot": 1, "query": 1}
    eval_report.write(tmp_path, [facts], [[0.5, 1.0]])
    assert seen == [True]
