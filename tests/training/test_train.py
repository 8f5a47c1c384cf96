import json
import logging
import re

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metalab.config.root_checks import validate_root
from metalab.core.errors import UserError
from metalab.tracking import checkpoint
from metalab.training import train
from tests.configs import net_in

TRAIN_TAGS = {"train/loss", "train/accuracy", "train/grad_norm", "train/lr", "time/step_ms"}
VAL_TAGS = {"val/accuracy", "val/best_accuracy", "val/ci95", "val/loss"}


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A run of ten steps: its folder, its configuration and what train.run returned."""
    out, cfg = tmp_path_factory.mktemp("train") / "run", small("train.steps=10", "train.val_every=4")
    return out, cfg, train.run(cfg, out)


def lines(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_folder_of_a_run(trained):
    out, _, _ = trained
    files = {f.name for f in out.iterdir() if not f.name.startswith("events.out.tfevents.")}
    expected = {"config.yaml", "run.json", "metrics.jsonl", "best.pt", "last.pt", "episode.png", "adaptation.png"}
    assert files == expected


def test_every_line_has_its_step_and_the_fixed_tags(trained):
    out, _, best = trained
    found = [(line.pop("step"), set(line)) for line in lines(out)]
    assert [step for step, tags in found if tags == TRAIN_TAGS] == [2, 4, 6, 8, 10]
    assert [step for step, tags in found if tags == VAL_TAGS] == [4, 8, 10]
    assert len(found) == 8
    assert best == max(line["val/accuracy"] for line in lines(out) if "val/accuracy" in line)
    assert 0 <= best <= 1


def test_tensorboard_has_the_same_scalars_the_configuration_and_two_pictures(trained):
    out, _, _ = trained
    events = EventAccumulator(str(out)).Reload()
    scalars = {(e.step, tag): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    logged = {(line["step"], tag): v for line in lines(out) for tag, v in line.items() if tag != "step"}
    assert scalars == pytest.approx(logged, rel=1e-6)
    assert sorted(events.Tags()["images"]) == ["val/adaptation", "val/episode"]
    assert "config/text_summary" in events.Tags()["tensors"]
    assert any(tag.startswith("_hparams_/session_start_info") for tag in events.summary_metadata)


def test_the_checkpoint_is_self_contained(trained, small):
    out, cfg, best = trained
    last, chosen = checkpoint.load(out / "last.pt"), checkpoint.load(out / "best.pt")
    assert set(last) == {
        "format",
        "net",
        "optimizer",
        "state",
        "random",
        "classes",
        "engine",
        "config",
        "train_way",
        "label_names",
        "labels",
        "head_classes",
        "shape",
        "data",
        "versions",
    }
    assert (last["state"]["step"], last["state"]["best"], chosen["state"]["best"]) == (10, best, best)
    assert len(last["classes"]) == 40
    assert all(name.startswith("tiny:") for name in last["classes"])
    assert last["config"]["engine"] == {
        "_target_": "metalab.engines.AutoEngine",
        "precision": "float32",
        "graphs": None,
    }
    assert (last["train_way"], last["shape"]) == (5, [1, 16, 16])
    net = net_in(small(), last)
    assert all(torch.equal(v, last["net"][k]) for k, v in net.state_dict().items())
    assert set(cfg) == set(last["config"])


def test_the_folder_says_what_made_it(trained):
    record = json.loads((trained[0] / "run.json").read_text())
    assert {"command", "started", "parameters", "versions", "processor", "git", "finished", "seconds"} <= set(record)
    assert (record["parameters"], record["steps"], "resumes" in record) == (516, 10, False)
    assert record["started"] <= record["finished"]
    assert 0 < record["seconds"] < 60


def test_training_never_loads_the_test_split(trained):
    _, cfg, _ = trained
    assert cfg.data.absent == "test"  # loading it raises


@pytest.mark.slow
def test_the_same_seed_trains_the_same_and_another_seed_does_not(trained, small, tmp_path):
    train.run(small("train.steps=10", "train.val_every=4"), tmp_path / "a")
    train.run(small("train.steps=10", "train.val_every=4", "seed=1"), tmp_path / "b")
    one, same, other = (
        [{k: v for k, v in line.items() if k != "time/step_ms"} for line in lines(out)]
        for out in (trained[0], tmp_path / "a", tmp_path / "b")
    )
    assert one == same
    assert one != other


@pytest.mark.parametrize("algo", ["maml", "reptile"])
def test_what_can_be_validated_is_known_before_training(small, tmp_path, algo):
    with pytest.raises(
        UserError, match=r"^the head was learned for 6 classes and the task has 5; give task\.way=6 and"
    ):
        train.run(small(f"algo={algo}", "task.train_way=6", "train.meta_batch=1"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


MADE = [(algo, init) for algo in ("maml", "anil") for init in ("zero", "random", "prototype", "knn")]
MADE += [("metasgd", "knn"), ("mamlpp", "prototype"), ("imaml", "knn"), ("metacurvature", "zero"), ("reptile", "knn")]


@pytest.mark.slow
@pytest.mark.parametrize(("algo", "init"), MADE)
def test_a_head_made_for_each_task_may_train_at_another_way(small, tmp_path, algo, init):
    words = (f"algo={algo}", f"algo.head_init={init}", "task.train_way=7", "train.meta_batch=1", "train.steps=1")
    words = (*words, "task.shot=2", "algo.test_steps=2")
    train.run(small(*words), tmp_path)
    assert checkpoint.load(tmp_path / "last.pt")["train_way"] == 7


def test_a_way_above_the_training_classes_is_told_as_that(small, tmp_path):
    expected = "way=41 but the train split has 40 classes: type task.train_way=40 or less"
    with pytest.raises(UserError, match=re.escape(expected)):
        train.run(small("task.train_way=41"), tmp_path)


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(small, tmp_path, command_line, tiny_dir):
    given = (f"--config-dir={tiny_dir}", *small.words, "optim=sgd", "optim.lr=1e30", "train.val_every=1")
    code, said = command_line("train", *given, "train.steps=50", f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert re.search(r"metalab: step \d+: (the loss is|it made) .*not finite. The checkpoints from before are", said)
    assert "Traceback" not in said
    for file in tmp_path.glob("*.pt"):
        assert all(v.isfinite().all() for v in checkpoint.load(file)["net"].values() if v.is_floating_point())


def test_monitor_loss_and_minutes(small, tmp_path, caplog):
    caplog.set_level(logging.INFO, "metalab")
    train.run(small("train.monitor=loss", "train.steps=6"), tmp_path / "a")
    lowest = min(line["val/loss"] for line in lines(tmp_path / "a") if "val/loss" in line)
    assert checkpoint.load(tmp_path / "a" / "best.pt")["state"]["best"] == lowest
    train.run(small("train.minutes=1e-6"), tmp_path / "b")
    assert "train.minutes=1e-06 are over after step 1 of 4" in caplog.text
    assert [line["step"] for line in lines(tmp_path / "b")] == [1, 1]
    assert {"best.pt", "last.pt"} <= {file.name for file in (tmp_path / "b").iterdir()}


def test_one_episode_at_a_time_in_validation(small, tmp_path, trained):
    train.run(small("train.steps=10", "train.val_every=4", "eval.batch=1"), tmp_path)
    own = [line for line in lines(tmp_path) if "val/loss" in line]
    assert own == [line for line in lines(trained[0]) if "val/loss" in line]


@pytest.mark.parametrize(
    ("algo", "bn"),
    [*((algo, "batch") for algo in ("protonet", "maml", "fomaml", "anil", "metasgd", "reptile")), ("maml", "support")],
)
def test_every_algorithm_trains_a_step(small, tmp_path, algo, bn):
    extra = () if algo == "protonet" else ("algo.steps=1", "algo.test_steps=1")
    words = (f"algo={algo}", f"train.bn={bn}", "train.meta_batch=2", "train.steps=1", "train.val_episodes=2", *extra)
    assert 0 <= train.run(small(*words), tmp_path) <= 1


def test_a_schedule_that_is_cut_short_is_said(small, tmp_path, caplog):
    caplog.set_level(logging.INFO, "metalab")
    cut = ("train.steps=1000", "train.minutes=1e-9", "optim.schedule=linear")
    train.run(small(*cut), tmp_path)
    assert "optim.schedule=linear was cut short, at 0.999 of optim.lr" in caplog.text


@pytest.mark.slow
def test_the_inner_l2_of_training_is_that_of_validation(small, tmp_path):
    """The inner steps descend one loss wherever they are taken."""
    maml = ("algo=maml", "algo.head_init=learned", "train.meta_batch=1", "optim.lr=1e-30", "reg=l2", "train.steps=2")
    losses = []
    for name, inner in (("without", 0.0), ("with", 0.1)):
        train.run(small(*maml, f"reg.l2.inner={inner}"), tmp_path / name)
        found = (json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        losses.append(next(line["val/loss"] for line in found if "val/loss" in line))
    assert losses[0] != losses[1]


def test_paths_of_data_are_kept_absolute(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = small("+data.root=here")
    validate_root(cfg)
    assert cfg.data.root == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("seed=abc",), "seed=abc (text): expected a whole number"),
        (("seed=-1",), "seed=-1: expected a whole number, 0 or more"),
        (("+trian.steps=99",), "trian: there is no such setting. Did you mean train?"),
    ],
)
def test_a_mistake_at_the_root_is_told(small, tmp_path, words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        train.run(small(*words), tmp_path)
