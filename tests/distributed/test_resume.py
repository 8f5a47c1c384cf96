"""A training goes on with another number of processes as if nothing had happened, with the same one bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.float64 import train_all
from tests.distributed.launch import ROOT, ended, started
from tests.distributed.test_equal_to_one import NEAR, farthest, logged

WORDS = ["algo=maml", "algo.lr=0.05", "reg=dropout", "train.meta_batch=3", "optim=sgd", "optim.lr=0.05"]
HALF, WHOLE = ([*WORDS, "train.val_every=2", f"train.steps={steps}"] for steps in (2, 4))
FIRST = {"two_then_one": HALF, "two_then_two": HALF, "two": WHOLE}  # by two processes


def in_two(cases: dict[str, list[str]], folder: Path) -> None:
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    words = ("-m", "tests.distributed.float64", str(folder / "cases.json"), str(folder))
    for code, output in ended(started(2, *words, cwd=ROOT)):
        assert code == 0, output


def gone_on(folder: Path, name: str) -> dict[str, list[str]]:
    return {name: [*WHOLE, f"resume={folder / name}"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resumed")
    train_all({"one": WHOLE, "one_then_two": HALF}, folder)
    in_two(FIRST, folder)
    in_two(gone_on(folder, "one_then_two") | gone_on(folder, "two_then_two"), folder)
    train_all(gone_on(folder, "two_then_one"), folder)
    refused = [path.read_text(encoding="utf-8") for path in folder.glob("*.refused")]
    assert not refused
    return folder


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two_then_one", "one_then_two", "two_then_two"])
def test_gone_on_with_it_is_equal_to_a_training_that_nobody_stopped(trained, name):
    ours, theirs = last(trained / name), last(trained / "one")
    assert ours["state"]["step"] == 4
    assert farthest(ours["net"], theirs["net"]) < NEAR
    assert farthest(ours["optimizer"], theirs["optimizer"]) < NEAR
    assert farthest(logged(trained / name), logged(trained / "one")) < NEAR
    assert torch.equal(ours["random"]["cpu"], theirs["random"]["cpu"])


@pytest.mark.slow
def test_with_the_same_number_it_is_equal_bit_for_bit(trained):
    ours, theirs = last(trained / "two_then_two"), last(trained / "two")
    assert farthest(ours["net"], theirs["net"]) == 0
    assert farthest(ours["optimizer"], theirs["optimizer"]) == 0
    assert logged(trained / "two_then_two") == logged(trained / "two")
