"""train.keep_best and train.snapshots: which checkpoints a run keeps, and that a resumed run keeps the same."""

import json
import math
import re
import signal
from pathlib import Path

import pytest
import torch

from metalab.core.errors import UserError
from metalab.tracking import checkpoint
from metalab.tracking.training_state import State
from metalab.training import kept_checkpoints, train
from metalab.training.loop import Plan
from metalab.training.optimizers import LRSchedule, cyclic
from tests.configs import training_setup
from tests.training.test_resume import same

KEEP = ("train.steps=6", "train.val_every=1", "train.keep_best=3", "train.val_episodes=2", "engine=doomed")


def validations(out: Path) -> list[tuple[float, int]]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["val/accuracy"], line["step"]) for line in found if "val/accuracy" in line]


@pytest.mark.slow
def test_the_best_validations_are_kept_and_a_killed_run_comes_to_the_same(small, tmp_path, monkeypatch):
    import tiny_parts  # pyright: ignore[reportMissingImports]

    train.run(small(*KEEP), tmp_path / "whole")
    ranked = sorted(validations(tmp_path / "whole"), key=lambda each: (-each[0], each[1]))[:3]
    held = [checkpoint.load(tmp_path / "whole" / f"{name}.pt")["state"]["step"] for name in ("best", "best2", "best3")]
    assert held == [step for _, step in ranked]
    assert not (tmp_path / "whole" / "best4.pt").exists()

    class Killed(Exception):
        pass

    save, saves = checkpoint.save, []

    def dies(path, state):  # after the best files of a validation were written, and before last.pt tells of it
        saves.append(path.name)
        if path.name == "last.pt" and saves.count("last.pt") == 5:
            raise Killed
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", dies)
    with pytest.raises(Killed):
        train.run(small(*KEEP), tmp_path / "cut")
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(tiny_parts, "steps", iter(range(1, 10**6)))
    train.run(small(*KEEP, f"resume={tmp_path / 'cut'}"), tmp_path / "cut")
    for name in ("last", "best", "best2", "best3"):
        one, two = (checkpoint.load(tmp_path / out / f"{name}.pt") for out in ("whole", "cut"))
        assert same(one["net"], two["net"]), name
        assert one["state"]["step"] == two["state"]["step"]
        assert one["state"]["kept"] == two["state"]["kept"]


@pytest.mark.parametrize("lost", range(4))
def test_the_files_come_right_wherever_a_process_was_killed_between_them(tmp_path, lost):
    """Steps 1, 2, 3 are kept in this order; 4 is better than all; killed after so many files, and done again."""

    def write(name: str, state: State) -> None:
        checkpoint.save(tmp_path / f"{name}.pt", {"state": {"step": state.step}})

    for name, step in {"best": 1, "best2": 2, "best3": 3}.items():
        write(name, State(step=step))
    state = State(step=4, kept=[(0.9, 4), (0.8, 1), (0.7, 2)])
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    kept_checkpoints.keeping(write, tmp_path)("best", state)
    after = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    for name in ("best3.pt", "best2.pt", "best.pt")[lost:]:  # the order in which they are written
        (tmp_path / name).write_bytes(before[name])
    kept_checkpoints.keeping(write, tmp_path)("best", state)
    steps = [checkpoint.load(tmp_path / f"{name}.pt")["state"]["step"] for name in ("best", "best2", "best3")]
    assert steps == [4, 1, 2]
    assert set(after) == {path.name for path in tmp_path.iterdir()}


def test_equal_values_keep_the_older_and_no_number_is_the_worst():
    plan = Plan(10, None, 1, 1, "accuracy", None, keep_best=3)
    state = State(kept=[(0.5, 1), (0.4, 2)])
    assert [plan.place({"accuracy": v}, state) for v in (0.6, 0.5, 0.45, 0.4, 0.1, math.nan)] == [0, 1, 1, 2, 2, 2]
    state.kept.append((math.nan, 3))
    assert plan.place({"accuracy": 0.1}, state) == 2
    assert plan.place({"accuracy": math.nan}, state) is None
    assert Plan(10, None, 1, 1, "loss", None, keep_best=3).place({"loss": 0.45}, State(kept=[(0.4, 1), (0.5, 2)])) == 1


def test_the_rate_of_snapshots_is_huangs_equation_2():
    rate = cyclic(LRSchedule("constant", 1, 0.5, 0.0), 3)
    steps, cycles = 14, 3
    for t in range(1, steps + 1):
        length = math.ceil(steps / cycles)
        assert rate.at(t - 1, steps) == pytest.approx(0.5 * (math.cos(math.pi * ((t - 1) % length) / length) + 1))
    assert rate.ends(steps) == (5, 10, 14)


@pytest.mark.slow
def test_a_snapshot_is_the_net_at_the_end_of_its_cycle_and_a_stopped_run_comes_to_the_same(
    small, tmp_path, monkeypatch
):
    import tiny_parts  # pyright: ignore[reportMissingImports]

    words = ("train.steps=4", "train.val_every=3", "train.snapshots=2", "train.val_episodes=2", "engine=doomed")
    train.run(small(*words), tmp_path / "whole")
    first, second = (checkpoint.load(tmp_path / "whole" / f"snapshot{i}.pt") for i in (1, 2))
    assert (first["state"]["step"], second["state"]["step"]) == (2, 4)
    assert same(second["net"], checkpoint.load(tmp_path / "whole" / "last.pt")["net"])
    assert not same(first["net"], second["net"])
    monkeypatch.setattr(tiny_parts, "steps", iter(range(1, 10**6)))
    monkeypatch.setenv("TINY_SIGNAL", f"{int(signal.SIGTERM)}@1")
    with pytest.raises(SystemExit):
        train.run(small(*words), tmp_path / "cut")
    assert not (tmp_path / "cut" / "snapshot1.pt").exists()
    monkeypatch.setenv("TINY_SIGNAL", "0@0")
    train.run(small(*words, f"resume={tmp_path / 'cut'}"), tmp_path / "cut")
    for i, whole in ((1, first), (2, second)):
        assert same(checkpoint.load(tmp_path / "cut" / f"snapshot{i}.pt")["net"], whole["net"])
    with pytest.raises(UserError, match=r"train\.steps=8 with train\.snapshots=2: the cycles of"):
        train.run(small(*words, "train.steps=8", f"resume={tmp_path / 'cut'}"), tmp_path / "cut")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train.snapshots=3", "train.steps=4"), "train.snapshots=3: train.steps=4 are too few for so many cycles"),
        (("train.snapshots=1",), "train.snapshots=1: expected 2 or more"),
        (("train.snapshots=2", "optim.schedule=step"), "optim.schedule=step is another: type optim.schedule=cosine"),
        (("train.snapshots=2", "train.keep_best=2"), "a run keeps one set of checkpoints for an ensemble"),
        (("train.keep_best=0",), "train.keep_best=0: expected 1 or more"),
        (("train.boost=[]",), "train.boost=[]: expected the earlier runs"),
        (("train.boost=[a]", "train.bootstrap=true"), "train.boost draws by earlier runs' errors"),
        (("train.bootstrap=all",), "train.bootstrap=all (text): expected one of images, classes or true or false"),
    ],
)
def test_what_does_not_go_together_is_refused(small, words, said):
    with pytest.raises(UserError, match=re.escape(said)):
        training_setup(small(*words))


def test_without_them_training_draws_what_it_always_drew(small):
    """The numbers are those of the version before there was bagging and boosting."""
    r = training_setup(small("train.bootstrap=null"))
    assert r.data["train"].resampling is None
    assert r.boost is None
    assert torch.equal(r.data["train"].images, r.whole.images)
    indices = r.training("train", 2).indices(1)
    assert indices.classes[0].tolist() == [13, 17, 15, 5, 25]
    assert indices.image[0, :5].tolist() == [212, 66, 305, 182, 160]
    batches = training_setup(small("algo=baseline", "task.train_way=null", "algo.mini_batch=6")).training("train", 1)
    assert batches.indices(3).image[0].tolist() == [379, 165, 147, 348, 272, 120]
