"""Supports of unequal size and with wrong labels: every algorithm takes them, alike on both engines."""

import csv
import json

import pytest
import torch

from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.evaluation import evaluate
from metalab.training import train
from tests.configs import training_setup
from tests.engines.test_parity import ALGORITHMS, NEAR, SMALL, net_of
from tests.quick import among, quick

SIZES = ("data.size=16", "task.way=3", "task.train_way=3", "task.query=2", "task.shot=2")
NOISY = ("maml", "protonet")  # labels that are wrong have no other shape
QUICK = (*NOISY, "mann", "metaoptnet", "relation", "siamese")  # each of another kind; the others are slow
ONE_STEP = ("train.steps=1", "train.val_every=1", "train.val_episodes=2", "task.shot=2", "eval.episodes=4")


@pytest.mark.slow
@pytest.mark.parametrize("algo", quick(ALGORITHMS, among(*QUICK)))
def test_every_algorithm_takes_them_alike_on_both_engines(algo, small):
    own = small(f"algo={algo}").algo
    words = [*SIZES, f"algo={algo}", *(["task.train_way=null"] if "mini_batch" in own else [])]
    most = {"test_steps": 3, "iterations": 3, "lr": 0.05}
    words += [f"algo.{key}={value}" for key, value in most.items() if (own.get(key) or 0) > value]
    for kind in ("task.shots=[1,2,4]", "task.label_noise=0.5") if algo in NOISY else ("task.shots=[1,2,4]",):
        r = training_setup(small(*words, kind))
        drawn = r.validation()(0)
        batch = Episode(*(Batch(b.x.double(), b.y, b.unlabelled.double()) for b in drawn))
        net = net_of(r, SMALL["conv4"], 16).eval()
        torch.manual_seed(0)
        slow = Learn2Learn().evaluate(r.measured(), net, batch)
        torch.manual_seed(0)
        fast = Vectorized(None).evaluate(r.measured(), net, batch)
        assert slow.loss.isfinite().all()
        assert slow.correct.shape == batch.query.y.shape
        assert (fast.loss - slow.loss).abs().max() < NEAR * max(1.0, slow.loss.abs().max().item())
        assert torch.equal(fast.correct, slow.correct)


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train.run(small(*ONE_STEP, "algo=protonet"), folder)
    return folder


@pytest.mark.parametrize(
    ("word", "facts"),
    [
        ("task.shots=[1,2,2,3,4]", {"shot": "1,2,2,3,4"}),
        ("task.label_noise=0.5", {"shot": 2, "label_noise": 0.5}),
    ],
)
def test_the_record_says_so(small, run, tmp_path, capsys, word, facts):
    evaluate.run([(run, small("data.absent=''", *ONE_STEP, "algo=protonet", word))], tmp_path)
    record = json.loads((tmp_path / "eval.json").read_text())
    assert facts.items() <= record.items()
    shown = capsys.readouterr().out
    assert f"5-way {facts['shot']}-shot" in shown
    assert ("50% wrong labels in the support" in " ".join(shown.split())) is ("label_noise" in facts)
    with (tmp_path / "episodes.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4


@pytest.mark.parametrize("word", ["task.shots=[1,2,2,3,4]", "task.label_noise=0.5"])
def test_unknown_classes_do_not_go_with_them(small, run, tmp_path, word):
    with pytest.raises(UserError, match=rf"eval\.unknown=2 with {word.partition('=')[0]}"):
        evaluate.run([(run, small("data.absent=''", *ONE_STEP, "algo=protonet", "eval.unknown=2", word))], tmp_path)


def test_training_has_noise_of_its_own(small):
    words = ("algo=protonet", "task.shot=4", "task.train_shot=5")
    for noise, wrong in ((0.0, 0), (0.4, 10)):
        r = training_setup(small(*words, f"task.train_label_noise={noise}"))
        source = r.training("train", 4)
        given, true = source(0).support.y, source.indices(0).label[:, :25]
        assert (given != true).sum(1).tolist() == [wrong] * 4
    with pytest.raises(UserError, match=r"task\.train_label_noise=0\.25 of 5 images .*, or another task\.train_shot"):
        training_setup(small(*words, "task.train_label_noise=0.25"))
    with pytest.raises(UserError, match=r"task\.train_label_noise=0\.2: algo=simpleshot trains on mini-batches"):
        training_setup(small("algo=simpleshot", "task.train_way=null", "task.train_label_noise=0.2"))
