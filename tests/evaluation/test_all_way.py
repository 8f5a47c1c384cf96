"""task=all_way: all test classes at once, against a nearest mean that is computed by hand."""

import json
import re

import numpy as np
import pytest
import torch

from metalab.core.errors import UserError
from metalab.core.statistics import t95
from metalab.evaluation import evaluate
from metalab.evaluation.all_way import protocol
from metalab.models.layers import running_statistics
from metalab.training import train
from tests.configs import evaluation_setup

ONE_STEP = ("train.steps=1", "train.val_every=1", "train.val_episodes=2", "algo=protonet")
SHOT, DRAWS = 2, 3


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A run of one step."""
    folder = tmp_path_factory.mktemp("run")
    train.run(small(*ONE_STEP), folder)
    return folder


def asked(small, *words):
    return small("data.absent=''", "task=all_way", f"task.shot={SHOT}", "algo=protonet", *words)


def evaluated(small, run, out, *words, report=False):
    evaluate.run([(run, asked(small, f"eval.report={report}", *words))], out)
    return json.loads((out / "eval.json").read_text())


def nearest_mean(setup) -> list[float]:
    """Return the accuracy of each draw by loops over all images of the split."""
    with torch.no_grad(), running_statistics():
        f = setup.net.eval()("features", setup.split.images.float() / 255).flatten(1).double().numpy()
    owner = np.repeat(np.arange(len(setup.split.ids)), setup.split.count.numpy())
    found = []
    for draw in range(DRAWS):
        support = set(setup.source(setup.task).indices(draw).image[0, : SHOT * len(setup.split.ids)].tolist())
        means = [f[[i for i in support if owner[i] == k]].mean(0) for k in range(len(setup.split.ids))]
        queries = [i for i in range(len(f)) if i not in support]
        right = [int(np.argmin([((f[i] - mean) ** 2).sum() for mean in means]) == owner[i]) for i in queries]
        found.append(sum(right) / len(queries))
    return found


def test_accuracies_are_those_of_a_nearest_mean(small, run, tmp_path):
    record = evaluated(small, run, tmp_path, report=True)
    setup = evaluation_setup(run, asked(small))
    ours = list(record["accuracy_of_each"].values())
    assert ours == pytest.approx(nearest_mean(setup))
    assert len(set(ours)) > 1
    assert record["accuracy"] == pytest.approx(np.mean(ours))
    assert record["ci95"] == pytest.approx(t95(DRAWS) * np.std(ours, ddof=1) / DRAWS**0.5)
    total = int(setup.split.count.sum())
    assert (record["way"], record["shot"], record["episodes"]) == (len(setup.split.ids), SHOT, DRAWS)
    assert record["queries"] == total - SHOT * record["way"]
    rows = (tmp_path / "per_class.csv").read_text().splitlines()
    at = rows[0].split(",").index("queries") - len(rows[0].split(","))
    assert sum(int(row.split(",")[at]) for row in rows[1:]) == DRAWS * record["queries"]


@pytest.mark.parametrize("bn", ["running", "support"])
def test_chunks_do_not_change_the_result(small, run, tmp_path, monkeypatch, bn):
    whole = evaluated(small, run, tmp_path / "whole", f"eval.bn={bn}")
    monkeypatch.setattr(evaluate, "chunk_size", lambda split: 7)
    parts = evaluated(small, run, tmp_path / "parts", f"eval.bn={bn}")
    assert parts["accuracy_of_each"] == whole["accuracy_of_each"]
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)


@pytest.mark.parametrize("words", [("algo=bdcspn",), ("algo=protonet", "eval.bn=batch")])
def test_queries_that_are_inferred_together_stay_together(small, run, tmp_path, monkeypatch, words):
    whole = evaluated(small, run, tmp_path / "whole", *words)
    monkeypatch.setattr(evaluate, "chunk_size", lambda split: 7)
    assert evaluated(small, run, tmp_path / "parts", *words)["loss"] == whole["loss"]
    assert whole["transductive"]


def test_features_in_the_place_of_images_give_the_same(small, run, tmp_path, monkeypatch):
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "cache"))
    images = evaluated(small, run, tmp_path / "images", "algo=simpleshot", "eval.embed=false")
    features = evaluated(small, run, tmp_path / "features", "algo=simpleshot", "eval.embed=true")
    assert features["accuracy_of_each"] == images["accuracy_of_each"]


def test_a_method_that_fits_a_head_takes_all_classes(small, run, tmp_path):
    record = evaluated(small, run, tmp_path, "algo=linear_probe", "task.draws=2")
    assert record["accuracy"] > 1.5 / record["way"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("attack=pgd",), "attack=pgd is not measured with task=all_way"),
        (("eval.unknown=2",), "eval.unknown=2 is not measured with task=all_way"),
        (("eval.corrupt=[fog]",), "eval.corrupt=[fog] is not measured with task=all_way"),
        (("task.shots=[1,2,3]", "task.way=3"), "task.shots=[1, 2, 3]: task=all_way has task.shot labelled images"),
        (("task.unlabelled=2",), "task.unlabelled=2: task=all_way has task.shot labelled images"),
        (("task.draws=1",), "task.draws=1: expected 2 or more"),
        (("task.shot=1000",), "type task.shot="),
    ],
)
def test_what_is_of_episodes_alone_is_refused(small, run, tmp_path, words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        evaluated(small, run, tmp_path, *words)
    assert not (tmp_path / "eval.json").exists()


def test_training_and_comparing_say_what_to_type(small, run, tmp_path):
    with pytest.raises(UserError, match=r"is for metalab eval run=RUN task=all_way: train with task=fixed"):
        train.run(asked(small), tmp_path / "train")
    with pytest.raises(UserError, match=r"metalab eval run=\[A,B\] task=all_way"):
        protocol.refuse_comparison(evaluation_setup(run, asked(small)).task)


@pytest.mark.slow
def test_a_head_of_another_way_is_refused(small, tmp_path):
    train.run(small(*ONE_STEP[:3], "algo=maml", "algo.steps=1", "train.meta_batch=1"), tmp_path / "run")
    with pytest.raises(UserError, match="the head was learned for 5 classes and the task has"):
        evaluated(small, tmp_path / "run", tmp_path / "out", "algo=maml")
