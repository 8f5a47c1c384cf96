"""metalab eval: what it reports, what it takes from a run, what it refuses."""

import csv
import hashlib
import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.data.storage.resize import resize_split
from metalab.evaluation import evaluate, setup
from metalab.tracking import checkpoint
from metalab.training import train
from tests.configs import evaluation_setup, training_setup

MAML = ("algo=maml", "train.meta_batch=1", "algo.steps=1", "algo.test_steps=2")

RUNS = {
    "protonet": (),
    "second": ("seed=1",),
    "maml": MAML,
    "zero": (*MAML, "algo.head_init=zero"),
    "random": (*MAML, "algo.head_init=random"),
    "prototype": ("algo=anil", *MAML[1:], "algo.head_init=prototype"),
    "knn": ("algo=boil", *MAML[1:], "algo.head_init=knn", "algo.lr=0.1"),
}

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory) -> dict[str, Path]:
    """Runs of a few steps: of ProtoNet with two seeds, of MAML, and of MAML whose head is made for each task."""
    home = tmp_path_factory.mktemp("runs")
    for name, words in RUNS.items():
        train.run(small(*words), home / name)
    return {name: home / name for name in RUNS}


@pytest.fixture
def result(small, runs, tmp_path):
    """Evaluate a run with its own configuration and overrides; return what eval.json and episodes.csv hold."""

    def evaluated(name: str, *overrides: str):
        out = tmp_path / f"eval{len(list(tmp_path.iterdir()))}"
        cfg = small(*RUNS[name], "seed=0", "data.absent=''", *overrides)
        accuracy = evaluate.run([(runs[name], cfg)], out)
        record = json.loads((out / "eval.json").read_text())
        with (out / "episodes.csv").open() as file:
            episodes = [float(row["accuracy"]) for row in csv.DictReader(file)]
        assert accuracy == record["accuracy"]
        return record, episodes

    return evaluated


def test_the_report_says_all_a_referee_needs(result, runs):
    record, episodes = result("maml", "eval.episodes=10")
    keys = {"accuracy", "ci95", "episodes", "way", "shot", "query", "split"}
    keys |= {"data", "algo", "bn", "transductive", "seed", "checkpoint"}
    assert keys <= set(record)
    expected = {"episodes": 10, "way": 5, "shot": 1, "query": 3, "split": "test", "data": "tiny", "algo": "maml"}
    expected |= {"bn": "batch", "transductive": True, "seed": 0, "checkpoint": str(runs["maml"] / "best.pt")}
    assert {k: record[k] for k in expected} == expected
    assert record["accuracy"] == pytest.approx(np.mean(episodes), abs=1e-12)
    assert record["ci95"] == pytest.approx(2.2621571628 * np.std(episodes, ddof=1) / np.sqrt(10), abs=1e-12)
    assert len(episodes) == 10
    assert len(set(episodes)) > 1
    assert "overlap" not in record


def test_600_episodes_are_the_default(small):
    assert small.words[-1] == "eval.episodes=6"
    assert yaml.safe_load((conf_dir() / "train.yaml").read_text())["eval"]["episodes"] == 600


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_episodes_do_not_depend_on_the_batch(result, batch):
    assert result("maml", f"eval.batch={batch}", "eval.bn=support")[1] == result("maml", "eval.bn=support")[1]


def test_the_same_seed_gives_two_runs_the_same_episodes(small, runs, tmp_path, monkeypatch):
    seen: list[torch.Tensor] = []
    draws = EpisodeSampler.__call__

    def watched(self, step):
        seen.append(self.indices(step).image)
        return draws(self, step)

    monkeypatch.setattr(EpisodeSampler, "__call__", watched)
    alone = ("data.absent=''", "eval.report=false")  # whose pictures make episodes again
    cfg, other = small(*alone), small(*alone, *MAML)
    evaluate.run([(runs["protonet"], cfg)], tmp_path / "a")
    first = list(seen)
    seen.clear()
    evaluate.run([(runs["maml"], other)], tmp_path / "b")
    assert all(map(torch.equal, first, seen))
    assert len(first) == len(seen) == 1
    seen.clear()
    evaluate.run([(runs["protonet"], small(*alone, "seed=1"))], tmp_path / "c")
    assert not torch.equal(first[0], seen[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["protonet", "maml"])
def test_all_four_modes_are_measured_and_batch_alone_is_transductive(result, name):
    records = {bn: result(name, f"eval.bn={bn}")[0] for bn in ("batch", "support", "one", "running")}
    assert {bn: record["bn"] for bn, record in records.items()} == {bn: bn for bn in records}
    assert [bn for bn, record in records.items() if record["transductive"]] == ["batch"]
    assert len({record["loss"] for record in records.values()}) == 4


def test_the_algorithms_own_mode_is_the_default(result):
    assert result("protonet")[0]["bn"] == "running"
    assert result("maml")[0]["bn"] == "batch"


def test_a_net_without_batch_norm_has_no_mode(small, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "has_batch_norm", lambda net: False)
    train.run(small("train.steps=1"), tmp_path / "run")
    evaluate.run([(tmp_path / "run", small("data.absent=''", "eval.bn=batch"))], tmp_path / "eval")
    record = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert (record["bn"], record["transductive"]) == (None, False)


def test_the_run_is_only_read(result, runs):
    def state() -> dict[Path, tuple[int, str]]:
        files = [f for f in sorted(runs["maml"].rglob("*")) if f.is_file()]
        return {f: (f.stat().st_mtime_ns, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files}

    before = state()
    assert len(before) >= 8
    result("maml", "eval.bn=running")
    assert state() == before


def test_classes_that_were_trained_on_are_refused_with_names_and_count(result, runs):
    with pytest.raises(UserError) as error:
        result("protonet", "eval.split=train")
    text = str(error.value)
    assert text.startswith(f"{runs['protonet']} was trained on 40 of the 40 classes of the train split: tiny:")
    assert text.count("tiny:") == 10
    assert " and 30 more. Their accuracy says nothing about new classes; eval.allow_overlap=true goes on" in text


def test_an_allowed_overlap_is_stamped(result, tiny):
    record, _ = result("protonet", "eval.split=train", "eval.allow_overlap=true")
    assert record["overlap"] == sorted(tiny["train"].ids)
    assert record["split"] == "train"
    assert record["note"] == "episodes of the train split that are drawn apart from those of training"
    assert "overlap" not in result("protonet", "eval.split=val", "eval.allow_overlap=true")[0]


def test_an_evaluation_of_the_training_classes_never_draws_the_training_episodes(small, runs):
    """With equal sizes and seed, eval.split=train gave the very episodes that were trained on."""
    sizes = ("task.train_way=5", "task.train_shot=1", "task.train_query=3")
    cfg = small("eval.split=train", "eval.allow_overlap=true", *sizes)
    mine, trained = evaluation_setup(runs["protonet"], cfg), training_setup(small(*sizes))
    evaluated, training = mine.source(mine.task), trained.training("train", 6)
    assert evaluated(0).query.x.shape == training(0).query.x.shape
    both = ([row for step in range(20) for row in s.indices(step).image.tolist()] for s in (evaluated, training))
    drawn = [set(map(tuple, rows)) for rows in both]
    assert len(drawn[0]) == len(drawn[1]) == 120
    assert not drawn[0] & drawn[1]


def test_too_large_a_task_on_the_training_classes_names_the_key_that_evaluation_reads(result):
    with pytest.raises(UserError, match=r"way=41 but the train split has 40 classes: type task\.way=40 or less"):
        result("protonet", "eval.split=train", "eval.allow_overlap=true", "task.way=41")


def test_a_warm_started_run_brings_its_first_classes_along(small, runs, tmp_path, tiny):
    train.run(small("data.seed=1", "train.steps=1", f"train.init={runs['protonet']}"), tmp_path / "warm")
    with pytest.raises(UserError, match=r"warm was trained on 40 of the 40 classes of the train split: tiny:"):
        evaluate.run([(tmp_path / "warm", small("eval.split=train"))], tmp_path / "eval")


@pytest.mark.parametrize(("channels", "size"), [(3, 16), (1, 20), (3, 11)])
def test_images_of_another_size_and_channels_are_fitted_and_that_is_said(result, caplog, channels, size):
    caplog.set_level(logging.INFO, "metalab")
    words = (f"data.channels={channels}", f"data.size={size}", "data.seed=7", "eval.allow_overlap=true")
    record, _ = result("protonet", *words)
    said = f"images [{channels}, {size}, {size}] made [1, 16, 16], as the run was trained on"
    assert said in caplog.messages
    assert record["note"] == said


def test_fitting_keeps_grey_and_brightness(tiny):
    split = tiny["val"]
    assert resize_split(split, 1, 16) is split
    coloured = resize_split(split, 3, 16)
    assert coloured.images.shape[1:] == (3, 16, 16)
    assert torch.equal(coloured.images, split.images.expand(-1, 3, -1, -1))
    assert torch.equal(resize_split(coloured, 1, 16).images, split.images)
    larger = resize_split(split, 1, 40)
    assert larger.images.shape[1:] == (1, 40, 40)
    assert larger.images.dtype == torch.uint8
    assert larger.images.float().mean().item() == pytest.approx(split.images.float().mean().item(), rel=0.02)
    assert larger.ids == split.ids


@pytest.mark.slow
def test_several_runs_give_a_row_each_and_mean_and_sd(command_line, runs, tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (f"run=[{runs['protonet']},{runs['second']}]", "hydra.run.dir=both", "data.absent=''", "device=cpu")
    code, said = command_line("eval", f"--config-dir={tiny_dir}", *words)
    assert code == 0, said
    record = json.loads((tmp_path / "both" / "eval.json").read_text())
    accuracies = [r["accuracy"] for r in record["runs"]]
    assert [r["train_seed"] for r in record["runs"]] == [0, 1]
    assert [r["seed"] for r in record["runs"]] == [0, 0]
    assert [r["episodes"] for r in record["runs"]] == [6, 6]
    assert record["mean"] == pytest.approx(np.mean(accuracies))
    assert record["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert "mean ± sd of 2 runs" in said


def test_eval_from_the_command_line_takes_all_else_from_the_run(command_line, runs, tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ("eval", f"--config-dir={tiny_dir}", f"run={runs['maml']}", "hydra.run.dir=one", "data.absent=''")
    given += ("device=cpu", "task.shot=2")
    code, said = command_line(*given)
    assert code == 0, said
    record = json.loads((tmp_path / "one" / "eval.json").read_text())
    assert [record[k] for k in ("algo", "way", "shot", "query", "episodes")] == ["maml", 5, 2, 3, 6]
    code, said = command_line(*given, "task.way=3")
    assert code == 1
    assert "metalab: the head was learned for 5 classes and the task has 3; give task.way=5" in said


@pytest.mark.slow
@pytest.mark.parametrize("way", [3, 8])
@pytest.mark.parametrize("name", ["protonet", "zero", "random", "prototype", "knn"])
def test_way_and_shot_can_be_others_where_no_head_is_learned(result, name, way):
    record, _ = result(name, f"task.way={way}", "task.shot=2", "task.query=4")
    assert (record["way"], record["shot"], record["query"]) == (way, 2, 4)


def test_heads_that_are_drawn_are_the_same_in_every_evaluation(result):
    torch.manual_seed(1)
    first = result("random")
    torch.manual_seed(2)
    assert result("random") == first


def test_unlabelled_images_come_with_the_support_and_are_told(result, monkeypatch):
    seen = []
    adapt = ProtoNet.adapt

    def watched(self, learner, support, loss, steps):
        seen.append(support.unlabelled.shape[0])
        return adapt(self, learner, support, loss, steps)

    monkeypatch.setattr(ProtoNet, "adapt", watched)
    record, _ = result("protonet", "task.unlabelled=2", "task.distractors=3")
    assert set(seen) == {(5 + 3) * 2}
    assert (record["unlabelled"], record["distractors"]) == (2, 3)
    with pytest.raises(UserError, match=r"and 9 unlabelled needs 13; .* type task\.unlabelled=8 or less"):
        result("protonet", "task.unlabelled=9")


@pytest.mark.parametrize("way", [3, 8])
def test_a_learned_head_at_another_way_is_one_clear_message(result, way):
    with pytest.raises(
        UserError, match=rf"^the head was learned for 5 classes and the task has {way}; give task.way=5"
    ):
        result("maml", f"task.way={way}")


def test_another_algorithm_or_backbone_than_the_checkpoints_is_told(runs, small, tmp_path):
    for words, first in {("algo=maml",): "head.weight", ("backbone.filters=8",): "body.0.0.weight"}.items():
        with pytest.raises(UserError) as error:
            evaluate.run([(runs["protonet"], small("data.absent=''", *words))], tmp_path)
        text = str(error.value)
        assert text.startswith("the checkpoint does not fit algo=")
        assert f"the first is {first}; leave out algo and backbone, they come from the run" in text


def test_a_way_above_the_test_classes(result):
    with pytest.raises(UserError, match=r"^way=13 but the test split has 12 classes: type task\.way=12 or less"):
        result("protonet", "task.way=13")


def test_a_run_brings_the_running_statistics_it_was_validated_with(runs):
    saved = checkpoint.load(runs["protonet"] / "best.pt")["net"]
    norms = [k for k in saved if k.endswith("running_mean")]
    assert len(norms) == 4
    assert all(saved[k].abs().sum() > 0 for k in norms)


def test_nothing_is_dropped_in_an_evaluation(small, tmp_path):
    train.run(small("reg=dropout", "reg.dropout.p=0.9", "train.steps=1"), tmp_path / "run")
    cfg = small("data.absent=''", "reg=dropout", "reg.dropout.p=0.9")
    for out in ("a", "b"):
        evaluate.run([(tmp_path / "run", cfg)], tmp_path / out)
    one, two = (json.loads((tmp_path / out / "eval.json").read_text())["loss"] for out in ("a", "b"))
    assert one == two


def test_predictions_that_are_no_numbers_are_wrong_and_counted(small, runs, tmp_path):
    """argmax of nan is class 0: a fifth would look right, and no attack could change it."""
    shutil.copytree(runs["protonet"], tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run" / "best.pt")
    saved["net"]["body.0.1.weight"].fill_(torch.nan)
    checkpoint.save(tmp_path / "run" / "best.pt", saved)
    cfg = small("data.absent=''", "eval.episodes=6", "attack=pgd", "attack.pgd.steps=1")
    evaluate.run([(tmp_path / "run", cfg)], tmp_path / "eval")
    record = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert (record["accuracy"], record["attacks"][0]["accuracy"], record["loss"]) == (0, 0, None)
    assert "6 of 6 episodes have predictions that are no numbers" in record["note"]


@pytest.mark.parametrize(
    ("group", "value"), [("reg", {}), ("eval", {"episodes": 10}), ("task", {"way": 3}), ("attack", {"eps": 4.0})]
)
def test_only_the_test_as_it_was_configured_is_written_as_the_runs_own(group, value):
    own = {"algo": {}, "backbone": {}, "task": {"way": 5}, "data": {"root": "here"}, "reg": {"l2": {"weight": 0.1}}}
    own |= {"eval": {"episodes": 600, "split": "test"}, "attack": {"eps": 8.0}}

    def judged(asked: dict) -> bool:
        t: Any = SimpleNamespace(
            attacks=SimpleNamespace(built={}),
            overlap=[],
            adapted="",
            algo=SimpleNamespace(bn="batch"),
            evaluation=SimpleNamespace(bn=None, split="test"),
            config=SimpleNamespace(whole=asked),
            saved={"config": own},
        )
        return evaluate._is_own_test(t)

    assert judged({**own, "data": {"root": "elsewhere"}})
    assert judged({**own, group: value}) == (group == "attack")  # of which none is named
