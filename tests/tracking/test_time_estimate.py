"""Very large numbers are taken, and say what they will take before the work begins."""

import logging
import re

import pytest
import torch
from torch import nn

from metalab.evaluation import evaluate
from metalab.tracking import time_estimate
from metalab.training import train
from tests.configs import evaluation_setup


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.images: list[int] = []

    def forward(self, part: str, x: torch.Tensor) -> torch.Tensor:
        self.images.append(len(x))
        return x


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(5, "5 seconds"), (90, "1.5 minutes"), (7200, "2.0 hours"), (86400 * 3, "3.0 days"), (1e12, "31,709.8 years")],
)
def test_a_time_is_said_in_its_largest_unit(seconds, said):
    assert time_estimate.duration(seconds) == said


def test_what_is_timed_and_said(monkeypatch):
    clock = iter([0, 3, 10, 12, 20, 25])  # three passes of 3, 2 and 5 seconds
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    net = Net()
    said = time_estimate.long_run_warning(net, 1000, (1, 4), 2_000_000, 3600, {"eval.episodes": 1_000_000})
    assert net.images == [500, 500, 500]
    assert said == (
        "eval.episodes=1000000: 2,000,000 passes of 1000 images through the net, 92.6 days at least, at 4e+03 ms each; "
        "Ctrl-C stops it, smaller numbers shorten it"
    )


def test_nothing_is_said_or_timed_of_usual_numbers():
    net = Net()
    assert time_estimate.long_run_warning(net, 80, (1, 4), 1_000_000, 0, {}) is None
    assert net.images == []
    assert time_estimate.long_run_warning(net, 80, (1, 4), 1_000_001, 10**9, {}) is None


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    train.run(small("train.steps=1", "train.val_episodes=2"), out)
    return out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval.episodes=1e12"], "eval.episodes=1000000000000: 1,000,000,000,000 passes of 20 images through the net"),
        (
            ["attack=pgd", "attack.pgd.steps=1e12", "eval.bn=running"],
            "eval.episodes=6, attack.pgd.steps=1000000000000: 6,000,000,000,006 passes of 20 images through the net, ",
        ),
    ],
)
def test_an_evaluation_says_what_it_will_take(run, small, words, said):
    told = evaluate._cost_warning(evaluation_setup(run, small("data.absent=", *words)))
    assert told is not None
    assert told.startswith(said)


def test_an_evaluation_of_usual_size_says_nothing(run, small):
    assert evaluate._cost_warning(evaluation_setup(run, small("data.absent="))) is None


def test_a_training_says_what_it_will_take_before_its_first_validation(small, tmp_path, monkeypatch, caplog):
    class Reached(Exception):
        pass

    def validate(count):
        raise Reached

    monkeypatch.setattr(train, "_validation", lambda *given: validate)
    caplog.set_level(logging.INFO, "metalab")
    with pytest.raises(Reached):
        train.run(small("algo=maml", "train.meta_batch=1", "algo.test_steps=1e12"), tmp_path)
    assert re.search(r"algo\.test_steps=1000000000000: 8,000,000,000,0\d\d passes of 20 images through ", caplog.text)
