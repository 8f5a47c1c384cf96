"""A run's folder has one writer."""

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from metalab.core.errors import UserError
from metalab.evaluation import evaluate
from metalab.tracking import run_lock
from metalab.tracking.run_lock import HOLDER, LOCK, locked_run
from metalab.training import train

HERE = f"process {os.getpid()} on {socket.gethostname()} (since "


SCRIPT = """
import signal, sys
from pathlib import Path
from metalab.tracking.run_lock import locked_run
with locked_run(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture
def other():
    """Let another process hold a folder: other(out) -> the process, which a test may kill."""
    started = []

    def start(out: Path) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(out)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def files(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}


def test_nothing_is_left_of_a_lock_that_was_given_back(tmp_path):
    for made in (False, True):
        out = tmp_path / "run"
        if made:
            out.mkdir()
        with locked_run(out):
            assert json.loads((out / HOLDER).read_text())["pid"] == os.getpid()
        assert out.exists() == made  # a run that was refused before any work leaves no folder
    assert files(out) == {}


def test_two_trainings_of_one_folder_the_second_is_refused_with_who_holds_it(small, tmp_path, other):
    """Both ended with 0, and one's results were the other's."""
    process = other(tmp_path)
    before = files(tmp_path)
    with pytest.raises(UserError) as error:
        train.run(small(), tmp_path)
    said = f"{tmp_path} is being written by process {process.pid} on {socket.gethostname()} (since 20"
    assert str(error.value).startswith(said)
    assert str(error.value).endswith("a folder of its own, as hydra.run.dir=outputs/train/another")
    assert files(tmp_path) == before


def test_two_resumes_and_two_evaluations_are_refused_as_well(small, tmp_path):
    train.run(small(), tmp_path)
    before = files(tmp_path)
    with locked_run(tmp_path):
        with pytest.raises(UserError, match="is being written by process"):
            train.run(small("train.steps=6", f"resume={tmp_path}"), tmp_path)
        with pytest.raises(UserError, match="is being written by process"):
            evaluate.run([(tmp_path, small("data.absent=''"))], tmp_path)
    assert files(tmp_path) == before


def test_a_dead_holders_lock_is_taken_over_and_that_is_said(small, tmp_path, other, caplog):
    process = other(tmp_path)
    process.kill()
    process.wait()
    assert {LOCK, HOLDER} <= files(tmp_path).keys()
    caplog.set_level(logging.INFO, "metalab")
    train.run(small(), tmp_path)
    who = f"process {process.pid} on {socket.gethostname()}"
    assert f"{tmp_path} was left by {who} (since 20" in caplog.text
    assert "which is gone: its lock is taken over" in caplog.text
    assert not {LOCK, HOLDER} & files(tmp_path).keys()


def test_a_holder_that_wrote_nothing_is_another_process(tmp_path):
    with locked_run(tmp_path):
        for content in ("", "[]"):
            (tmp_path / HOLDER).write_text(content)
            with (
                pytest.raises(UserError, match=r"is being written by another process\. Wait for it or stop it"),
                locked_run(tmp_path),
            ):
                pass


def test_a_run_that_fails_or_is_stopped_gives_the_folder_back(tmp_path):
    for error in (UserError("no"), SystemExit(143), KeyboardInterrupt()):
        with pytest.raises(type(error)), locked_run(tmp_path):
            raise error
        assert files(tmp_path) == {}


def test_a_folder_that_is_taken_away_meanwhile_is_no_traceback(tmp_path):
    with locked_run(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "moved")
    with locked_run(tmp_path / "run"):
        pass


@pytest.mark.slow
def test_a_refused_command_leaves_hydras_files_of_the_other_run(command_line, small, tmp_path, tiny_dir):
    words = ("train", f"--config-dir={tiny_dir}", *small.words, f"hydra.run.dir={tmp_path}")
    hydra = tmp_path / ".hydra" / "overrides.yaml"
    with locked_run(tmp_path):
        code, said = command_line(*words)
        assert (code, "is being written by " + HERE in said) == (1, True)
        assert not hydra.exists()
    assert command_line(*words)[0] == 0
    before = hydra.read_bytes(), (tmp_path / "train.log").read_bytes()
    code, said = command_line(*words, "seed=1")
    assert (code, "already holds a run (last.pt): go on with it" in said) == (1, True)
    with locked_run(tmp_path):
        code, said = command_line("train", f"resume={tmp_path}", f"--config-dir={tiny_dir}")
        assert (code, "is being written by " + HERE in said) == (1, True)
    assert before == (hydra.read_bytes(), (tmp_path / "train.log").read_bytes())


def test_a_folder_that_may_not_be_written_is_one_message(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_lock, "_locked", refuse)
    with pytest.raises(UserError, match=r"\.lock cannot be written \(Permission denied\)"), locked_run(tmp_path):
        pass
