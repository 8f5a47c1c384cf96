"""What runs are doing, read from their folders."""

import json
import os
import socket
import time
from pathlib import Path

import pytest
import yaml

from metalab.core.errors import UserError
from metalab.tracking import run_lock
from metalab.tracking.run_lock import HOLDER, LOCK, locked_run
from metalab.tracking.run_states import find_states, matches, read_state

SETTINGS = {
    "algo": {"_target_": "metalab.algorithms.MAML", "name": "fomaml"},
    "data": {"_target_": "metalab.data.MiniImageNet", "root": None},
    "reg": {"l2": {"_target_": "metalab.regularizers.L2", "weight": 0.1}},
    "attack": {"eps": 8.0},
    "optim": {"_target_": "torch.optim.Adam", "lr": 0.001},
    "train": {"steps": 100, "minutes": None},
    "task": {"shot": 5},
    "seed": 0,
}


def made(folder: Path, **record: object) -> Path:
    """Make the folder of a run that has logged two validations."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    held = {"command": "metalab train", "started": "2026-11-01T00:00:00+00:00", **record}
    (folder / "run.json").write_text(json.dumps(held))
    lines = [{"step": 10, "val/accuracy": 0.5}, {"step": 20, "val/accuracy": None}, {"step": 30, "train/loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_finished_stopped_and_failed(tmp_path):
    one = read_state(made(tmp_path / "a", finished="2026-11-01T01:00:00+00:00", steps=100))
    assert (one.state, one.step, one.steps, one.best, one.host, one.why) == ("finished", 100, 100, 0.5, None, None)
    assert read_state(made(tmp_path / "b")).state == "stopped"
    other = read_state(made(tmp_path / "c", failed="step 3: the loss is nan"))
    assert (other.state, other.step, other.why) == ("failed", 30, "step 3: the loss is nan")


def test_a_run_whose_lock_is_held_is_running_whatever_it_came_to_before(tmp_path):
    folder = made(tmp_path / "a", finished="2026-11-01T01:00:00+00:00")
    with locked_run(folder):
        now = read_state(folder)
    assert (now.state, now.host) == ("running", socket.gethostname())
    assert read_state(folder).state == "finished"


def test_a_killed_process_leaves_a_stopped_run(tmp_path):
    """Its lock file and its note stay; the note's process is gone, or its number is another's, who holds no lock."""
    folder = made(tmp_path / "a")
    (folder / LOCK).touch()
    for pid in (2**22 + 1, os.getpid()):
        (folder / HOLDER).write_text(json.dumps({"pid": pid, "host": socket.gethostname(), "since": "now"}))
        assert read_state(folder).state == "stopped"
    (folder / HOLDER).write_text(json.dumps({"pid": 1, "host": "another", "since": "now"}))
    assert read_state(folder).state == "running"


def test_runs_are_found_below_folders_the_newest_first_and_what_is_no_run_is_left_out(tmp_path):
    for age, name in enumerate(("old", "sweep/0", "sweep/1")):
        folder = made(tmp_path / name)
        os.utime(folder / "run.json", (time.time() + age, time.time() + age))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    found = [Path(each.run).relative_to(tmp_path).as_posix() for each in find_states([tmp_path, tmp_path / "sweep"])]
    assert found == ["sweep/1", "sweep/0", "old"]
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        list(find_states([tmp_path / "nowhere"]))


@pytest.mark.parametrize(
    ("key", "values", "whether"),
    [
        ("algo", ["maml"], True),  # the class
        ("algo", ["fomaml"], True),  # the name
        ("algo", ["protonet", "FOMAML"], True),
        ("algo", ["protonet"], False),
        ("data", ["miniimagenet"], True),
        ("reg", ["l2"], True),
        ("reg", ["none"], False),
        ("attack", ["none"], True),
        ("task.shot", ["5"], True),
        ("task.shot", ["1"], False),
        ("optim.lr", ["1e-3"], True),
        ("train.minutes", ["null"], True),
        ("seed", ["0"], True),
    ],
)
def test_a_setting_is_compared_as_it_is_typed(key, values, whether):
    assert matches(SETTINGS, key, values) is whether


def test_a_setting_that_a_run_does_not_have():
    for key in ("sed", "task.shots", "seed.more"):
        with pytest.raises(KeyError):
            matches(SETTINGS, key, ["1"])


def test_a_run_whose_log_grows_is_the_newest_whenever_it_was_started(tmp_path):
    for name, started, logged in (("training", 100, 900), ("ended", 500, 600), ("old", 50, 60)):
        folder = made(tmp_path / "runs" / name)
        os.utime(folder / "run.json", (started, started))
        os.utime(folder / "metrics.jsonl", (logged, logged))
    assert [Path(each.run).name for each in find_states([tmp_path])] == ["training", "ended", "old"]
    given = [tmp_path / "runs" / name for name in ("old", "training")]
    assert [Path(each.run).name for each in find_states(given)] == ["training", "old"]


def test_a_run_of_another_user_whose_lock_cannot_be_opened_is_running(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    folder = made(tmp_path / "a")
    (folder / LOCK).touch()
    (folder / HOLDER).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": "now"}))
    monkeypatch.setattr(run_lock, "_locked", refuse)
    assert [each.state for each in find_states([tmp_path])] == ["running"]
