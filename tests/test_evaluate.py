import copy
import csv
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.optim.swa_utils import update_bn

from metalab import assemble, checkpoint, evaluate, train
from metalab.algorithms.protonet import ProtoNet
from metalab.assemble import method, network, normalisation
from metalab.config import conf_dir
from metalab.data.episodes import Episodes
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.errors import UserError
from metalab.evaluate import matched, measure
from metalab.interfaces import TaskResult
from metalab.models.layers import BatchStatNorm, Normalise, estimate_running, running_statistics
from metalab.objectives.judge import PREDICTIONS, cross_entropy
from metalab.regularisers import Terms

MAML = ("algo=maml", "train.meta_batch=1", "algo.steps=1", "algo.test_steps=2")
RUNS = {
    "protonet": (),
    "second": ("seed=1",),
    "maml": MAML,
    "zero": (*MAML, "algo.head_init=zero"),
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
    assert record["ci95"] == pytest.approx(1.96 * np.std(episodes, ddof=1) / np.sqrt(10), abs=1e-12)
    assert len(episodes) == 10
    assert len(set(episodes)) > 1
    assert "overlap" not in record


def test_600_episodes_are_the_default(small):
    assert small.words[-1] == "eval.episodes=6"
    assert yaml.safe_load((conf_dir() / "train.yaml").read_text())["eval"]["episodes"] == 600


@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_episodes_do_not_depend_on_the_batch(result, batch):
    assert result("maml", f"eval.batch={batch}", "eval.bn=support")[1] == result("maml", "eval.bn=support")[1]


def test_the_same_seed_gives_two_runs_the_same_episodes(small, runs, tmp_path, monkeypatch):
    seen: list[torch.Tensor] = []
    draws = Episodes.__call__

    def watched(self, step):
        seen.append(self.indices(step).image)
        return draws(self, step)

    monkeypatch.setattr(Episodes, "__call__", watched)
    cfg, other = small("data.absent=''"), small("data.absent=''", *MAML)
    evaluate.run([(runs["protonet"], cfg)], tmp_path / "a")
    first = list(seen)
    seen.clear()
    evaluate.run([(runs["maml"], other)], tmp_path / "b")
    assert all(map(torch.equal, first, seen))
    assert len(first) == len(seen) == 1
    seen.clear()
    evaluate.run([(runs["protonet"], small("data.absent=''", "seed=1"))], tmp_path / "c")
    assert not torch.equal(first[0], seen[0])


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
    monkeypatch.setattr(evaluate, "BatchStatNorm", nn.LSTM)  # none of these
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
    assert "overlap" not in result("protonet", "eval.split=val", "eval.allow_overlap=true")[0]


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
    assert matched(split, 1, 16) is split
    coloured = matched(split, 3, 16)
    assert coloured.images.shape[1:] == (3, 16, 16)
    assert torch.equal(coloured.images, split.images.expand(-1, 3, -1, -1))
    assert torch.equal(matched(coloured, 1, 16).images, split.images)
    larger = matched(split, 1, 40)
    assert larger.images.shape[1:] == (1, 40, 40)
    assert larger.images.dtype == torch.uint8
    assert larger.images.float().mean().item() == pytest.approx(split.images.float().mean().item(), rel=0.02)
    assert larger.ids == split.ids


def test_several_runs_give_a_row_each_and_mean_and_sd(command_line, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = f"run=[{runs['protonet']},{runs['second']}]"
    code, said = command_line("eval", both, "hydra.run.dir=both", "data.absent=''", "device=cpu")
    assert code == 0, said
    record = json.loads((tmp_path / "both" / "eval.json").read_text())
    accuracies = [r["accuracy"] for r in record["runs"]]
    assert [r["train_seed"] for r in record["runs"]] == [0, 1]
    assert [r["seed"] for r in record["runs"]] == [0, 0]
    assert [r["episodes"] for r in record["runs"]] == [6, 6]
    assert record["mean"] == pytest.approx(np.mean(accuracies))
    assert record["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert "mean ± sd of 2 runs" in said


def test_eval_from_the_command_line_takes_all_else_from_the_run(command_line, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ("eval", f"run={runs['maml']}", "hydra.run.dir=one", "data.absent=''", "device=cpu", "task.shot=2")
    code, said = command_line(*given)
    assert code == 0, said
    record = json.loads((tmp_path / "one" / "eval.json").read_text())
    assert [record[k] for k in ("algo", "way", "shot", "query", "episodes")] == ["maml", 5, 2, 3, 6]
    code, said = command_line(*given, "task.way=3")
    assert code == 1
    assert "metalab: the head was learned for 5 classes and the task has 3; give task.way=5" in said


@pytest.mark.parametrize("way", [3, 8])
@pytest.mark.parametrize("name", ["protonet", "zero", "prototype", "knn"])
def test_way_and_shot_can_be_others_where_no_head_is_learned(result, name, way):
    record, _ = result(name, f"task.way={way}", "task.shot=2", "task.query=4")
    assert (record["way"], record["shot"], record["query"]) == (way, 2, 4)


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


# ---- what the modes mean


@pytest.fixture
def net(small, tiny):
    """A net of MAML with weights that are not those of the start."""
    cfg = small(*MAML)
    torch.manual_seed(0)
    _, algorithm = method(cfg.algo, 5, test=True)
    net = network(cfg.backbone, algorithm, nn.Sequential(), normalisation(tiny["train"].images), 16)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = tiny["train"].images[:200] / 255
    estimate_running(net, [lambda: net("features", x)])
    return net.eval()


@pytest.fixture
def episode(tiny):
    return Episodes(tiny["test"], 5, 2, 2, 1, 0, "test", CPU)(0)


def logits(algo, net, episode, bn):
    """Return the logits [queries, way] of one episode as objectives predict them."""

    def objective(learner, one, progress):
        *_, model = algo.adapt(learner, one.support, cross_entropy, 2)
        found = PREDICTIONS[bn](model, one.support.x, one.query.x)
        return TaskResult(found.sum(), found.argmax(1) == one.query.y, {"logits": found, "loss": found.sum()}, {})

    return evaluate.outcome(Learn2Learn(), objective, net, episode, bn).scalars["logits"][0]


@pytest.mark.parametrize("algo", ["maml", "protonet"])
@pytest.mark.parametrize("bn", ["batch", "support", "one", "running"])
def test_in_batch_mode_alone_a_query_leans_on_the_other_queries(small, net, episode, algo, bn):
    _, algorithm = method(small(f"algo={algo}").algo, 5, test=True)
    before = logits(algorithm, net, episode, bn)
    changed = episode.query.x.clone()
    changed[0, 0] = 1 - changed[0, 0]
    after = logits(algorithm, net, episode._replace(query=episode.query._replace(x=changed)), bn)
    assert not torch.allclose(before[0], after[0], atol=1e-4)
    if bn == "batch":
        assert (before[1:] - after[1:]).abs().max() > 1e-3
    else:
        torch.testing.assert_close(before[1:], after[1:], rtol=1e-5, atol=1e-5)


def test_one_mode_is_the_support_and_one_query_by_hand(small, net, episode):
    _, algorithm = method(small(*MAML).algo, 5, test=True)
    found = logits(algorithm, net, episode, "one")
    support, query = task(episode, 0)
    *_, adapted = algorithm.adapt(TaskLearner(net, True), support, cross_entropy, 2)
    for i, x in enumerate(query.x):
        alone = adapted(torch.cat([support.x, x[None]]))[-1]
        torch.testing.assert_close(found[i], alone, rtol=1e-5, atol=1e-5)


def twin(net: nn.Module) -> nn.Module:
    """Return the net with torch's own batch norm."""
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, BatchStatNorm):
                norm = nn.BatchNorm2d(len(child.weight), eps=child.eps)
                norm.load_state_dict(child.state_dict(), strict=False)
                setattr(parent, name, norm)
    return net


def test_running_statistics_are_what_torchs_update_bn_estimates(small, tiny):
    cfg = small()
    torch.manual_seed(0)
    _, algorithm = method(cfg.algo, 5, test=True)
    net = network(cfg.backbone, algorithm, nn.Sequential(), Normalise([0.4], [0.2]), 16)
    body = nn.Sequential(net.normalise, net.body)
    theirs = twin(body)
    batches = [tiny["train"].images[i::7][:30] / 255 for i in range(5)]
    estimate_running(body, [lambda x=x: body(x) for x in batches])
    update_bn(batches, theirs)
    ours = {k: v for k, v in body.state_dict().items() if "running" in k}
    assert len(ours) == 8
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-4, atol=1e-5)
    x = tiny["val"].images[:9] / 255
    theirs.eval()
    with running_statistics(), torch.no_grad():
        torch.testing.assert_close(body.eval()(x), theirs(x), rtol=1e-4, atol=1e-4)


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


def test_measure_takes_the_first_episodes_of_the_source(small, net, tiny):
    _, algorithm = method(small(*MAML).algo, 5, test=True)
    source = Episodes(tiny["test"], 5, 1, 2, 4, 0, "test", CPU)
    whole, losses = measure(
        Learn2Learn(), assemble.measured_objective(algorithm, 1, "batch", 5, Terms()), net, source, 8, "batch"
    )
    some, _ = measure(
        Learn2Learn(), assemble.measured_objective(algorithm, 1, "batch", 5, Terms()), net, source, 5, "batch"
    )
    assert whole.dtype == losses.dtype == np.float64
    assert (len(whole), len(some)) == (8, 5)
    assert np.array_equal(whole[:5], some)
    assert np.isfinite(losses).all()
