import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_parts import Tiny  # type: ignore[import-not-found]  # conftest.py puts tests/tiny_data on the path

from metalab.config.experiment import read_config
from metalab.core.errors import UserError
from metalab.core.interfaces import Split, UnlabelledImages
from metalab.tracking import checkpoint, checkpoint_schema
from metalab.training import resume, train
from metalab.training.resume import refuse_other_data
from tests.data.folder import tree

LONG = ("train.steps=16", "train.val_every=6", "train.log_every=4", "engine=doomed")
MAML = ("algo=maml", "train.meta_batch=2", "algo.test_steps=1", "reg=dropout", "reg.dropout.p=0.5")


def lines(out: Path) -> list[dict]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time/step_ms"} for line in found]


def events(out: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(out)).Reload()
    tags = [tag for tag in found.Tags()["scalars"] if tag != "time/step_ms"]
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags}


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(a: Path, b: Path) -> None:
    """The curves, the weights and all else that a run could go on from are equal to the last bit."""
    assert lines(a) == lines(b)
    assert events(a) == events(b)
    for name in ("last.pt", "best.pt"):
        one, two = (checkpoint.load(out / name) for out in (a, b))
        for saved in (one, two):
            del saved["config"]["resume"]
            saved["state"] = {k: v for k, v in saved["state"].items() if k not in ("seconds", "busy")}
        assert [k for k in one if not same(one[k], two[k])] == []


def hashes(out: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(out.rglob("*")) if f.is_file()}


@pytest.fixture
def doomed(monkeypatch):
    """Let this process get a signal in the meta-step after so many more."""
    import tiny_parts  # pyright: ignore[reportMissingImports]

    def at(number: signal.Signals, step: int) -> None:
        monkeypatch.setattr(tiny_parts, "steps", iter(range(1, 10**6)))
        monkeypatch.setenv("TINY_SIGNAL", f"{int(number)}@{step}")

    return at


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [("algo=protonet", "reg=dropout", "optim.schedule=cosine"), ("algo=reptile", "algo.steps=2", "algo.test_steps=3")],
    ids=["protonet", "reptile"],
)
def test_stopped_by_sigterm_between_two_lines_and_gone_on_with(small, tmp_path, doomed, method):
    overrides = (*LONG, *method)
    best = train.run(small(*overrides), tmp_path / "whole")
    doomed(signal.SIGTERM, 11)
    with pytest.raises(SystemExit) as stop:
        train.run(small(*overrides), tmp_path / "cut")
    assert stop.value.code == 143
    saved = checkpoint.load(tmp_path / "cut" / "last.pt")
    assert (saved["state"]["step"], len(saved["state"]["window"])) == (11, 3)
    record = json.loads((tmp_path / "cut" / "run.json").read_text())
    assert (record["steps"], "finished" in record) == (11, False)
    again = train.run(small(*overrides, f"resume={tmp_path / 'cut'}"), tmp_path / "cut")
    assert again == best
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    record = json.loads((tmp_path / "cut" / "run.json").read_text())
    assert (record["steps"], len(record["resumes"]), record["resumes"][0]["step"]) == (16, 1, 11)
    assert record["finished"] >= record["started"]
    assert record["seconds"] == round(checkpoint.load(tmp_path / "cut" / "last.pt")["state"]["seconds"], 1)


def test_the_comparison_can_fail(small, tmp_path):
    for name, p in {"a": 0.5, "b": 0.25}.items():
        train.run(small("reg=dropout", f"reg.dropout.p={p}"), tmp_path / name)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "a", tmp_path / "b")


def test_killed_stopped_interrupted_and_gone_on_with_as_if_nothing_had_been(
    small, command_line, tmp_path, tiny_dir, doomed
):
    """SIGKILL in step 9 (resume from the checkpoint of 6), then SIGTERM after step 8, then Ctrl-C after step 11."""
    out, overrides = tmp_path / "cut", (*LONG, *MAML)
    train.run(small(*overrides), tmp_path / "whole")
    env = os.environ | {"PYTHONPATH": str(tiny_dir), "OMP_NUM_THREADS": "1", "TINY_SIGNAL": f"{int(signal.SIGKILL)}@9"}
    program = [sys.executable, "-c", "from metalab.cli import main; main()", "train", f"--config-dir={tiny_dir}"]
    words = [*program, *small.words, *overrides, f"hydra.run.dir={out}"]
    killed = subprocess.run(words, capture_output=True, text=True, env=env, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (checkpoint.load(out / "last.pt")["state"]["step"], lines(out)[-1]["step"]) == (6, 8)
    doomed(signal.SIGTERM, 2)
    code, said = command_line("train", f"--config-dir={tiny_dir}", f"resume={out}")
    assert (code, f"resumes {out} after step 6 of 16\n" in said) == (143, True)
    assert "stopped by SIGTERM after step 8; last.pt is saved, resume goes on\n" in said
    doomed(signal.SIGINT, 3)
    code, said = command_line("train", f"--config-dir={tiny_dir}", f"resume={out}")
    assert (code, "stopped by SIGINT after step 11; last.pt is saved, resume goes on\n" in said) == (130, True)
    assert command_line("train", f"--config-dir={tiny_dir}", f"resume={out}")[0] == 0
    assert_same_run(out, tmp_path / "whole")
    assert [r["step"] for r in json.loads((out / "run.json").read_text())["resumes"]] == [6, 8, 11]


def test_a_finished_run_is_left_as_it_is(small, tmp_path, caplog):
    best = train.run(small(), tmp_path)
    before = hashes(tmp_path)
    caplog.set_level(logging.INFO, "metalab")
    assert train.run(small(f"resume={tmp_path}"), tmp_path) == best
    assert hashes(tmp_path) == before
    assert f"{tmp_path} has ended: finished 4 steps. Nothing is done; to go on, raise that limit" in caplog.text


@pytest.mark.slow
def test_a_run_that_patience_ended_goes_on_with_more_of_it(small, tmp_path, caplog):
    caplog.set_level(logging.INFO, "metalab")
    impatient = ("train.steps=30", "train.val_every=1", "train.log_every=1", "optim.lr=1e-12")
    train.run(small(*impatient, "train.patience=2"), tmp_path)
    assert "no better validation accuracy for train.patience=2 validations; ends at step 3 of 30" in caplog.text
    before = hashes(tmp_path)
    caplog.clear()
    train.run(small(*impatient, "train.patience=2", f"resume={tmp_path}"), tmp_path)
    assert "has ended: no better validation accuracy for train.patience=2" in caplog.text
    assert hashes(tmp_path) == before
    train.run(small(*impatient, "train.patience=4", f"resume={tmp_path}"), tmp_path)
    assert lines(tmp_path)[-1]["step"] == 5


@pytest.mark.slow
def test_more_steps_are_taken_and_said(small, tmp_path, caplog):
    train.run(small("train.steps=4"), tmp_path / "a")
    train.run(small("train.steps=8"), tmp_path / "b")
    caplog.set_level(logging.INFO, "metalab")
    train.run(small("train.steps=8", f"resume={tmp_path / 'a'}"), tmp_path / "a")
    assert f"resumes {tmp_path / 'a'} after step 4 of 8; changed: train.steps=8 (was 4)" in caplog.text
    assert "optim.schedule" not in caplog.text  # a constant one does not change
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_more_steps_change_a_schedule_and_that_is_said(small, tmp_path, caplog, schedule):
    words = (f"optim.schedule={schedule}",)
    train.run(small(*words), tmp_path)
    caplog.set_level(logging.INFO, "metalab")
    train.run(small(*words, "train.steps=6", f"resume={tmp_path}"), tmp_path)
    expected = f"optim.schedule={schedule} runs over all of train.steps: with 6 in the place of 4 the learning rate"
    assert expected in caplog.text


def test_fewer_steps_than_were_done_are_refused(small, tmp_path):
    train.run(small(), tmp_path)
    expected = f"train.steps=3, but {tmp_path} has done 4 steps already; give more, as train.steps=8"
    with pytest.raises(UserError, match=re.escape(expected)):
        train.run(small("train.steps=3", f"resume={tmp_path}"), tmp_path)


def test_what_would_be_another_run_is_refused_by_name(small, tmp_path):
    train.run(small(), tmp_path)
    before = hashes(tmp_path)
    with pytest.raises(UserError) as error:
        train.run(small("optim.lr=0.5", "seed=3", "train.init=x", f"resume={tmp_path}"), tmp_path)
    assert str(error.value) == (
        "resume goes on with the same run and takes only train.steps, train.minutes, train.patience, "
        "train.on_warning, device, data.root, data.labels, data.source_root, data.target_root, data.cache, "
        "engine.graphs, reg.distill.teacher, train.prune_after, train.prune_warmup; not "
        "optim.lr=0.5 (the run has 0.001), seed=3 (the run has 0), train.init=x (the run has null). "
        f"For a new run from its weights type train.init={tmp_path}"
    )
    assert hashes(tmp_path) == before


def test_only_a_run_with_a_best_checkpoint_is_advised_as_a_start(small, tmp_path):
    train.run(small(), tmp_path)
    (tmp_path / "best.pt").unlink()
    with pytest.raises(UserError, match=r"\(the run has 0\)\. Start a new run$"):
        train.run(small("seed=3", f"resume={tmp_path}"), tmp_path)


def test_what_attacks_share_is_not_compared_and_a_chosen_attack_is(small, tmp_path):
    train.run(small(), tmp_path)
    train.run(small("attack.eps=16", "train.steps=6", f"resume={tmp_path}"), tmp_path)
    assert checkpoint.load(tmp_path / "last.pt")["state"]["step"] == 6
    with pytest.raises(UserError, match=r"not attack\.fgsm\."):
        train.run(small("attack=fgsm", "train.steps=8", f"resume={tmp_path}"), tmp_path)


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_new_run_does_not_write_into_an_old_ones_folder(small, tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError) as error:
        train.run(small(), tmp_path)
    assert str(error.value) == (
        f"{tmp_path} already holds a run ({name}): go on with it, as metalab train resume={tmp_path}, "
        "or give the new run another folder, as hydra.run.dir=outputs/train/another"
    )
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_resume_refuses_data_that_changed(small, tmp_path, monkeypatch):
    train.run(small(), tmp_path)
    before = hashes(tmp_path)
    load = Tiny.load

    def with_a_file_less(self, split):
        found = load(self, split)
        return replace(found, count=found.count - (torch.arange(len(found.ids)) == 0).long())

    monkeypatch.setattr(Tiny, "load", with_a_file_less)
    with pytest.raises(UserError, match=r"^the train and val images are not those that the run was trained with"):
        train.run(small("train.steps=6", f"resume={tmp_path}"), tmp_path)
    assert hashes(tmp_path) == before


def test_resume_checks_a_limit_before_it_compares_it(small, tmp_path):
    train.run(small(), tmp_path)
    with pytest.raises(UserError, match=r"^train\.steps=abc \(text\): expected a whole number"):
        train.run(small("train.steps=abc", f"resume={tmp_path}"), tmp_path)


@pytest.mark.slow
def test_a_run_on_images_that_were_moved_goes_on(small, tmp_path):
    tree(tmp_path / "here", classes=40, images=6)
    words = ("data=folder", "data.size=16", "data.channels=1", f"data.cache={tmp_path / 'cache'}", "task.query=3")
    words += ("task.train_query=3", "task.train_way=5")
    train.run(small(*words, f"data.root={tmp_path / 'here'}"), tmp_path / "run")
    (tmp_path / "here").rename(tmp_path / "there")
    again = (*words, f"resume={tmp_path / 'run'}", "train.steps=6")
    with pytest.raises(UserError, match=r"here does not exist: expected a folder with one folder a class; type "):
        train.run(small(*again, f"data.root={tmp_path / 'here'}"), tmp_path / "run")
    train.run(small(*again, f"data.root={tmp_path / 'there'}"), tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "last.pt")["state"]["step"] == 6


def test_another_target_is_other_data_and_an_older_run_says_nothing_of_it():
    def prints(ids: list[str] | None) -> dict[str, str]:
        target = None if ids is None else UnlabelledImages(torch.zeros(len(ids), 1, 2, 2), ids, "ink")
        one = torch.tensor([1])
        split = Split(torch.zeros(1, 1, 2, 2), one - 1, one, ["a"], ["a"], target=target)
        r: Any = SimpleNamespace(data={"train": split}, whole=split)
        return train.fingerprint(r)

    refuse_other_data(prints(["1", "2"]), prints(["1", "2"]))
    refuse_other_data(prints(None), prints(["1", "2"]))  # an older run
    for other in (["1", "3"], ["1"], ["2", "1"]):
        with pytest.raises(UserError, match=r"^the target images are not those that the run was trained with"):
            refuse_other_data(prints(["1", "2"]), prints(other))


def test_domains_that_were_moved_are_the_same_run(small, tmp_path, monkeypatch):
    words = ("data=domains", "data.source=mnist", "data.target=usps", "train.steps=9")
    was = read_config(small(*words, "data.source_root=/a", "data.target_root=/b"))
    saved = {"config": was.whole, "state": {"step": 3}}
    monkeypatch.setattr(checkpoint_schema, "load_checked", lambda _: saved)
    monkeypatch.setattr(resume, "checkpoint_in", lambda out: out / "last.pt")
    now = read_config(small(*words, "data.source_root=/c", "data.target_root=/d", f"resume={tmp_path}"))
    assert resume.load_resumable(now, tmp_path) is saved
    other = read_config(small(*words, "data.seed=1", f"resume={tmp_path}"))
    with pytest.raises(UserError, match=r"not data\.seed=1"):
        resume.load_resumable(other, tmp_path)
