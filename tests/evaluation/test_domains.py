"""A run on a source domain is measured on source and target; no label of the target reaches a loss."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metalab.config.experiment import read_config
from metalab.config.instantiate import build
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Loss, Model, Split
from metalab.core.statistics import mean_ci95
from metalab.data.datasets.domains import Domains, load_split
from metalab.data.identity.class_ids import UNLABELLED, fingerprint
from metalab.evaluation import evaluate, setup
from metalab.evaluation.protocols.build import evaluation_protocol
from metalab.evaluation.protocols.images import ImageProtocol
from metalab.evaluation.transfer.domain_report import build_domain_report
from metalab.models.layers import running_statistics
from metalab.regularizers import Hooks
from metalab.tracking import checkpoint, domain_text, sweep_table
from metalab.training import train
from tests.configs import net_in
from tests.data.domains import CLASSES, folders, mnist, usps

CLASSIFIER = ("algo=baseline", "task.train_way=null", "task.query=15", "eval.report=false", "train.val_every=4")


@dataclass(frozen=True)
class Pull:
    """A loss of the target's unlabelled images: their mean logit, squared."""

    def hooks(self) -> Hooks:
        def outer(loss: Loss) -> Loss:
            def with_target(model: Model, batch: Batch) -> Tensor:
                return loss(model, batch) + model(batch.unlabelled).square().mean()

            return with_target

        return Hooks(outer=outer, target="pull")


PULL = "+reg.pull._target_=tests.evaluation.test_domains.Pull"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("transfer")
    folders(root / "domains", 20)
    return root


@pytest.fixture(scope="module")
def made(small, home):
    """Compose a training on the tiny domains: made("data.target=ink", ...)."""

    def composed(*words: str):
        where = (f"data.root={home / 'domains'}", f"data.cache={home / 'cache'}", "data.size=16")
        return small("data=domains", *where, *CLASSIFIER, *words)

    return composed


@pytest.fixture(scope="module")
def run(made, home) -> Path:
    """The source alone: clay and oil, for ink."""
    train.run(made("data.target=ink", "train.steps=8", "optim.lr=0.02"), home / "run")
    return home / "run"


@pytest.fixture(scope="module")
def adapted(made, home) -> Path:
    """The same with a loss of the target's images."""
    train.run(made("data.target=ink", PULL), home / "adapted")
    return home / "adapted"


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "eval.json").read_text())


def right(cfg: Any, run: Path, data: Domains) -> np.ndarray:
    """Return whether each test image is right, by the net alone, class by class."""
    net, test = net_in(cfg, checkpoint.load(run / "best.pt")).eval(), data.load("test")
    with torch.no_grad(), running_statistics():
        logits = net("logits", test.images.float() / 255)
    return (logits.argmax(1) == torch.arange(3).repeat_interleave(test.count)).double().numpy()


def test_the_record_has_both_domains_the_gap_and_the_paired_gain(made, run, adapted, tmp_path, capsys):
    cfg = made("data.target=ink", f"eval.baseline={run}")
    evaluate.run([(adapted, cfg)], tmp_path)
    held = record(tmp_path)["domains"]
    data = build(cfg.data, "data")
    there, here, before = right(cfg, adapted, data.of_source()), right(cfg, adapted, data), right(cfg, run, data)
    assert len(there) == 24
    assert len(here) == 12
    for name, values in (("source", there), ("target", here)):
        assert held[name]["accuracy"] == pytest.approx(values.mean())
        assert held[name]["images"] == len(values)
        assert list(held[name]["classes"]) == list(CLASSES)
        assert list(held[name]["classes"].values()) == pytest.approx(values.reshape(3, -1).mean(1))
    assert held["source"]["domains"] == ["clay", "oil"]
    assert held["target"]["domain"] == "ink"
    assert held["gap"]["difference"] == pytest.approx(there.mean() - here.mean())
    assert held["gap"]["ci95"] == pytest.approx(math.hypot(mean_ci95(there)[1], mean_ci95(here)[1]))
    gain, half = mean_ci95(here - before)
    assert (held["gain"]["difference"], held["gain"]["ci95"]) == (pytest.approx(gain), pytest.approx(half))
    assert held["gain"]["baseline"] == {
        "run": str(run),
        "accuracy": pytest.approx(before.mean()),
        "ci95": pytest.approx(mean_ci95(before)[1]),
    }
    assert record(tmp_path)["accuracy"] == held["target"]["accuracy"]
    said = " ".join(capsys.readouterr().out.split())
    for text in ("of 12 test images of ink", "of 24 test images of clay, oil", "points from source to target"):
        assert text in said
    assert "trained beside 48 images of ink without labels" in said


def test_a_target_that_nothing_read_is_not_on_the_record(run, adapted):
    plain, seen = (checkpoint.load(each / "best.pt") for each in (run, adapted))
    assert not [each for each in plain["classes"] if each.startswith(UNLABELLED)]
    assert "unlabelled" not in plain["data"]
    assert len([each for each in seen["classes"] if each.startswith(UNLABELLED)]) == 48
    assert seen["data"]["unlabelled"] == "48 images of ink without labels"
    assert json.loads((adapted / "run.json").read_text())["unlabelled"] == "48 images of ink without labels"


def test_images_that_were_seen_without_labels_are_refused_as_a_test(made, run, adapted, tmp_path):
    other = ("data.target=ink", "data.seed=1")
    with pytest.raises(UserError, match=r"saw, without their labels, \d+ of the 12 images of the test split: ink/"):
        evaluate.run([(adapted, made(*other))], tmp_path)
    evaluate.run([(adapted, made(*other, "eval.allow_overlap=true"))], tmp_path)
    assert all(each.endswith("(seen without its label)") for each in record(tmp_path)["overlap"])


def test_adaptation_at_test_is_stamped_and_leaves_the_source_and_the_baseline(made, run, tmp_path):
    found = {}
    for name, words in {"as it is": (), "bn": ("eval.bn=target",), "tent": ("eval.tent=5",)}.items():
        evaluate.run([(run, made("data.target=ink", f"eval.baseline={run}", *words))], tmp_path / name)
        found[name] = record(tmp_path / name)
    assert "adapted" not in found["as it is"]
    assert found["as it is"]["domains"]["gain"]["difference"] == 0
    for name in ("bn", "tent"):
        held = found[name]
        assert (held["bn"], held["transductive"]) == ("target", False)
        assert held["adapted"].endswith(
            "batch norm by 48 training images of ink without labels; no test image was seen"
        )
        assert held["loss"] != found["as it is"]["loss"]
        assert held["domains"]["source"] == found["as it is"]["domains"]["source"]
        assert held["domains"]["gain"]["baseline"] == found["as it is"]["domains"]["gain"]["baseline"]
    assert found["bn"]["loss"] != found["tent"]["loss"]


def test_another_target_is_measured_beside_the_sources_of_the_training(made, run, tmp_path):
    evaluate.run([(run, made("data.target=clay"))], tmp_path)
    held = record(tmp_path)["domains"]
    assert (held["source"]["domains"], held["target"]["domain"]) == (["clay", "oil"], "clay")


def test_what_needs_a_target_says_so(made, run, tmp_path):
    source = "data.source=[clay,oil]"
    for word in ("eval.bn=target", "eval.tent=2"):
        with pytest.raises(UserError, match=rf"^{word} learns from unlabelled images of a target domain"):
            evaluate.run([(run, made(source, word))], tmp_path)
        with pytest.raises(UserError, match=rf"^{word} is for metalab eval"):
            train.run(made("data.target=ink", word), tmp_path / "no")
    with pytest.raises(UserError, match=r"eval\.baseline=.* is compared on the test images of a target domain"):
        evaluate.run([(run, made(source, f"eval.baseline={run}"))], tmp_path)
    with pytest.raises(UserError, match=r"there is no folder nowhere"):
        evaluate.run([(run, made("data.target=ink", "eval.baseline=nowhere"))], tmp_path)


def test_permuted_labels_of_the_target_give_the_same_weights(small, tmp_path):
    mnist(tmp_path / "mnist")
    nets = {}
    for name, permuted in (("usps", False), ("permuted", True)):
        usps(tmp_path / name, permuted)
        words = ["data=domains", "data.source=mnist", "data.target=usps", "data.size=16"]
        words += [f"data.source_root={tmp_path / 'mnist'}", f"data.target_root={tmp_path / name}"]
        cfg = small(*words, f"data.cache={tmp_path / name / 'c'}", *CLASSIFIER, PULL, "train.steps=3")
        train.run(cfg, tmp_path / f"run_{name}")
        nets[name] = checkpoint.load(tmp_path / f"run_{name}" / "last.pt")["net"]
    plain = small(*words, f"data.cache={tmp_path / name / 'c'}", *CLASSIFIER, "train.steps=3")
    train.run(plain, tmp_path / "without")
    without = checkpoint.load(tmp_path / "without" / "last.pt")["net"]
    assert all(torch.equal(nets["usps"][key], nets["permuted"][key]) for key in nets["usps"])
    assert any(not torch.equal(nets["usps"][key], without[key]) for key in without)  # the images do reach the loss


def test_a_sweep_of_targets_is_a_matrix(tmp_path):
    jobs = []
    for i, target in enumerate(("ink", "oil")):
        (tmp_path / str(i)).mkdir()
        part = {"accuracy": 0.5 + i / 10, "ci95": 0.01, "images": 9}
        held = dict.fromkeys(sweep_table.FACTS) | {"run": f"runs/{i}", "trained_on": "domains", "algo": "baseline"}
        held |= {"accuracy": 0.5 + i / 10, "ci95": 0.01, "gap": None}
        gain = {"gain": {"difference": 0.25, "ci95": 0.1}} if i else {}
        source = {**part, "accuracy": 0.75, "domains": ["clay", "wax"]}
        domains = {
            "source": source,
            "target": {**part, "domain": target},
            "gap": {"difference": 0.2, "ci95": 0.1},
            **gain,
        }
        (tmp_path / str(i) / "eval.json").write_text(json.dumps(held | {"domains": domains}))
        jobs.append((tmp_path / str(i), [f"run=runs/{i}"]))
    path = sweep_table.write(jobs, [words for _, words in jobs])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["words"] for row in rows] == ["data.target=ink", "data.target=oil"]
    assert [row["source"] for row in rows] == ["clay+wax"] * 2
    assert [(row["target"], row["source_accuracy"], row["gap"], row["gain"]) for row in rows] == [
        ("ink", "0.75", "0.2", ""),
        ("oil", "0.75", "0.2", "0.25"),
    ]


def test_the_words_of_a_record():
    part = {"accuracy": 0.5, "ci95": 0.01, "episodes": 600}
    domains = {
        "source": {**part, "accuracy": 0.9, "domains": ["a", "b"]},
        "target": {**part, "domain": "c"},
        "gap": {"difference": 0.4, "ci95": 0.0141},
        "gain": {"difference": -0.02, "ci95": 0.03, "baseline": {"run": "r", "accuracy": 0.52, "ci95": 0.01}},
    }
    assert domain_text.domain_rows(domains) == {
        "target": "50.00 ± 1.00 % of 600 test episodes of c",
        "source": "90.00 ± 1.00 % of 600 test episodes of a, b",
        "gap": "+40.00 ± 1.41 points from source to target",
        "gain": "-2.00 ± 3.00 points over r (52.00 %), paired on the same episodes",
    }
    assert domain_text.domain_scalars(domains)["domains/gain"] == -0.02


def reported(cfg: Any, saved: dict[str, Any], folder: Path, split: Split) -> Any:
    """Return what a run with this checkpoint measures beside the target's test images."""
    config = read_config(cfg)
    t: Any = SimpleNamespace(config=config, evaluation=config.eval, data=build(cfg.data, "data"), saved=saved)
    t.folder, t.split, t.protocol = folder, split, evaluation_protocol(split)
    return build_domain_report(t)


def test_the_source_has_the_labels_of_the_classifier_and_none_of_its_images_was_trained_on(made, home):
    cfg = made("data.target=ink")
    data = build(cfg.data, "data")
    source = data.of_source().load("test")
    ids = ["folder:named:fox", *reversed(source.ids)]
    saved: dict[str, Any] = {"config": {"data": {"_target_": "metalab.data.Folder"}}, "shape": [3, 16, 16]}
    saved |= {"labels": ids, "label_names": ["fox", *reversed(CLASSES)], "classes": ids}
    report = reported(cfg, saved, home / "run", source)
    assert report.source.ids == ids
    assert report.source.count.tolist() == [0, 8, 8, 8]
    assert report.source.files[int(report.source.first[1])].split("/")[1] == "emu"
    saved["classes"] = [*ids, source.image_ids[0]]
    with pytest.raises(UserError, match=r"was trained on 1 of the 24 images of the test split: clay/cat/"):
        reported(cfg, saved, home / "run", source)
    allowed = reported(made("data.target=ink", "eval.allow_overlap=true"), saved, home / "run", source)
    assert allowed.overlap == [source.files[0]]


def test_a_label_without_images_has_no_accuracy():
    count = torch.tensor([2, 0, 1])
    names = ["cat", "dog", "emu"]
    split = Split(torch.zeros(3, 1, 2, 2), count.cumsum(0) - count, count, names, names, by_image=True)
    source: Any = SimpleNamespace(indices=lambda step: SimpleNamespace(label=torch.tensor([[0, 2, 0]])))
    assert ImageProtocol().accuracy_record(np.array([1.0, 1.0, 0.0]), split, source)["classes"] == {
        "cat": 0.5,
        "emu": 1.0,
    }
    part = {"accuracy": 0.5, "ci95": 0.1, "images": 3}
    target, there = {**part, "domain": "c", "classes": {"cat": 1.0}}, {**part, "domains": ["a"]}
    domains = {"target": target, "source": {**there, "classes": {"cat": 0.5, "emu": 1.0}}}
    rows = domain_text.domain_rows(domains | {"gap": {"difference": 0.0, "ci95": 0.1}})
    assert rows["by class, %"] == "cat 50.0 → 100.0"


def test_the_mean_feature_of_a_run_that_is_adapted_is_by_running_statistics(made, monkeypatch):
    asked = []
    monkeypatch.setattr(setup, "_trained_on", lambda config, saved: build(config.data, "data").load("train"))
    monkeypatch.setattr(setup.checkpoint_transfer, "transfer_weights", lambda *_: True)
    monkeypatch.setattr(setup.checkpoint_transfer, "estimate_feature_mean", lambda net, split, bn: asked.append(bn))
    for words in (("eval.bn=target",), ("eval.bn=batch",)):
        cfg = made("algo=simpleshot", "data.target=ink", *words)
        net_in(cfg, {"shape": [3, 16, 16], "train_way": 3, "net": {}})
    assert asked == ["running", "batch"]


def test_the_mean_feature_of_a_run_across_domains_is_that_of_its_images(made):
    words = ("data.protocol=classes", "data.classes=[1,1,1]", "task.query_domain=clay")
    run = read_config(made(*words))
    train_split = load_split(build(run.data, "data"), "train", "clay")
    saved = {"config": run.whole, "data": {"train": fingerprint(train_split)}}
    here = read_config(made(*words[:2], "algo=simpleshot"))
    assert setup._trained_on(here, saved).files == train_split.files


def test_domains_that_moved_are_the_same_data_and_other_domains_lie_elsewhere():
    run = {"_target_": "D", "root": None, "source": "mnist", "target": "usps", "seed": 0, "cache": None}
    run |= {"source_root": "/a", "target_root": "/b"}
    moved = run | {"source_root": "/c", "target_root": "/d", "cache": "/e"}
    assert setup.where_it_lies(run, moved | {"seed": 3}) == moved
    swapped = moved | {"source": "usps", "target": "mnist"}
    assert setup.where_it_lies(run, swapped) == run | {"cache": "/e"}
    assert setup.where_it_lies(run, moved | {"root": "/f"}) == run
    assert evaluate._without_places(run) == evaluate._without_places(moved)
    folder = {"_target_": "F", "root": None}
    assert setup.where_it_lies(folder, {"_target_": "F", "root": "/g"}) == {"_target_": "F", "root": "/g"}


def test_a_run_from_one_that_saw_a_target_says_so(made, adapted, tmp_path):
    words = ("train.steps=1", "train.val_every=1", "reg=none", f"train.init={adapted}")
    train.run(made("data.target=ink", *words), tmp_path / "run")
    said = checkpoint.load(tmp_path / "run" / "best.pt")["data"]["weights"]
    assert said == "begun from a run trained beside 48 images of ink without labels"
