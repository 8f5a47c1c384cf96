"""run=null: a frozen pretrained backbone, features that are kept, and queries of classes outside of an episode."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torchvision import models

from metalab.algorithms import MAML, ProtoNet
from metalab.algorithms.build import build_algorithm
from metalab.config.experiment import read_config
from metalab.config.schema import Task
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode
from metalab.data.sampling.build import episode_source
from metalab.evaluation.feature_store import sees_features_alone
from metalab.evaluation.open_set import auroc, with_unknown
from metalab.evaluation.protocols.build import evaluation_protocol
from metalab.evaluation.robustness import build_attacks
from metalab.evaluation.setup import images_stay_as_they_are
from metalab.evaluation.untrained import backbone_words
from metalab.models.build import build_net
from metalab.models.layers import Normalize
from metalab.regularizers.base import Hooks
from metalab.regularizers.build import build_regularizers
from tests.configs import backbone


@pytest.fixture
def typed(command_line, weights, tiny_dir, tmp_path, monkeypatch):
    """Run `metalab eval run=null` with these weights on tiny data: typed(*words) -> eval.json, what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "cache"))

    def run(*words: str):
        backbone = ("backbone=torchvision", "backbone.name=mobilenet_v3_small", f"backbone.weights={weights}")
        small = (
            "data=tiny",
            "data.absent=''",
            "eval.episodes=12",
            "task.query=4",
            "device=cpu",
            "backbone.classes=none",
        )
        code, said = command_line(
            "eval", "--config-dir", str(tiny_dir), "run=null", *backbone, *small, "hydra.run.dir=out", *words
        )
        assert code == 0, said
        return json.loads((tmp_path / "out" / "eval.json").read_text()), said

    return run


@pytest.mark.slow
def test_nothing_is_trained_and_the_accuracy_is_the_nearest_mean_s(typed, weights, tiny, tmp_path):
    """An oracle without metalab's nets: torchvision's own, its pooled features, the episodes as they were drawn."""
    record, said = typed("algo=protonet")
    assert (record["run"], record["step"], record["way"]) == (None, 0, 5)
    assert "mobilenet_v3_small with" in record["checkpoint"]
    assert "Preparing" in said
    net = models.mobilenet_v3_small(weights=None)
    net.load_state_dict(torch.load(weights, weights_only=True))
    net.classifier[3] = torch.nn.Identity()
    net.eval()
    split = tiny["test"]
    source = episode_source(Task(5, 1, 4, None, None, None), split, 8, 0, "test", torch.device("cpu"))
    entry = models.MobileNet_V3_Small_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(values)[:, None, None] for values in (entry.mean, entry.std))
    right = []
    for step in range(2):
        drawn = source(step)
        with torch.no_grad():
            known, asked = (
                torch.stack([net((x.expand(-1, 3, -1, -1) - mean) / std) for x in part.x])
                for part in (drawn.support, drawn.query)
            )
        order = drawn.support.y.argsort(1)
        means = torch.stack([f[o] for f, o in zip(known, order, strict=True)])
        right += (torch.cdist(asked, means).argmin(-1) == drawn.query.y).double().mean(1).tolist()
    assert record["accuracy"] == pytest.approx(np.mean(right[:12]), abs=1e-9)


@pytest.mark.slow
def test_results_on_kept_features_are_those_on_images(typed):
    kept, first = typed("algo=simpleshot", "task.shot=3")
    again, second = typed("algo=simpleshot", "task.shot=3", "hydra.run.dir=out")
    without, _ = typed("algo=simpleshot", "task.shot=3", "eval.embed=false")
    assert "Preparing" in first
    assert "Preparing" not in second  # they are there
    assert kept["accuracy"] == again["accuracy"] == without["accuracy"]
    assert kept["loss"] == pytest.approx(without["loss"], rel=1e-5)
    assert "algo.transform=l2n in the place of cl2n" in kept["note"]


@pytest.mark.slow
def test_corrupted_images_are_looked_at_and_no_kept_features(typed):
    words = ("algo=simpleshot", "task.shot=3", "eval.corrupt=[contrast,pixelate]", "eval.severities=[5]")
    found, said = typed(*words)
    assert "Preparing" not in said
    without, _ = typed(*words, "eval.embed=false")
    assert found == without
    assert found["corruptions"]["mean"]["accuracy"] != found["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["baseline", "feature_extraction", "r2d2", "matching", "baselinepp"])
def test_every_method_without_training_takes_features(typed, algo):
    more = ["algo.epochs=3"] if algo.startswith("baseline") else []
    kept, said = typed(f"algo={algo}", "eval.episodes=4", "eval.embed=true", *more)
    assert "Preparing" in said
    assert "engine=auto takes vectorized: on stored features" in " ".join(said.split())
    without, said = typed(f"algo={algo}", "eval.episodes=4", "eval.embed=false", *more)
    assert "engine=auto takes learn2learn" in said
    assert kept["loss"] == pytest.approx(without["loss"], rel=1e-3)
    alone, said = typed(f"algo={algo}", "eval.episodes=4", "eval.embed=true", "engine=learn2learn", *more)
    assert "engine=auto" not in said
    assert alone["loss"] == pytest.approx(without["loss"], rel=1e-3)


@pytest.mark.slow
def test_queries_of_other_classes_are_told_apart(typed):
    record, said = typed("algo=protonet", "eval.unknown=3")
    assert record["unknown"]["classes"] == 3
    assert 0 < record["unknown"]["auroc"] < 1
    assert "against queries of 3 classes outside of each episode" in " ".join(said.split())


def test_the_area_is_the_share_of_ordered_pairs():
    score = torch.tensor([3.0, 1.0, 2.0, 2.0, 0.0])
    known = torch.tensor([True, False, True, False, False])
    pairs = [(3.0, 1.0), (3.0, 2.0), (3.0, 0.0), (2.0, 1.0), (2.0, 2.0), (2.0, 0.0)]
    by_hand = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert float(auroc(score, known)) == pytest.approx(by_hand)
    draw = torch.Generator().manual_seed(0)
    score, known = torch.randint(0, 9, (200,), generator=draw).float(), torch.rand(200, generator=draw) > 0.4
    assert float(auroc(score, known)) == pytest.approx(roc_auc_score(known.numpy(), score.numpy()), abs=1e-6)


def test_the_support_has_the_known_classes_alone():
    y = torch.tensor([[0, 2, 1, 3], [3, 1, 0, 2]])
    x = torch.arange(8.0).view(2, 4, 1, 1, 1)
    whole = Episode(Batch(x, y, x[:, :0]), Batch(x, y, x[:, :0]))
    made = with_unknown(lambda step: whole, 2)(0)
    assert made.support.y.tolist() == [[0, 1], [1, 0]]
    assert made.support.x.flatten(1).tolist() == [[0.0, 2.0], [5.0, 6.0]]
    assert made.query.y.tolist() == y.tolist()


def test_what_changes_with_the_episode_is_never_kept(small, tiny, net_of_conv4):
    """A batch norm that looks at the episode, an algorithm that changes the body, images that are turned."""
    net, split = net_of_conv4, tiny["test"]
    proto, maml = ProtoNet(5), MAML(way=5, lr=0.1, first_order=False, head_init="learned")
    assert sees_features_alone(proto, net, "running")
    assert not sees_features_alone(proto, net, "support")
    assert not sees_features_alone(maml, net, "running")
    clean = build_attacks(read_config(small()).attack, None)
    assert images_stay_as_they_are(split, clean, Hooks())
    for turned in (replace(split, random_turns=True), replace(split, turns=split.count)):
        assert not images_stay_as_they_are(turned, clean, Hooks())
    assert not images_stay_as_they_are(split, build_attacks(read_config(small("attack=fgsm")).attack, None), Hooks())
    attacked = read_config(small("reg=adv_fgsm", "reg.adv_fgsm.where=inner", "reg.adv_fgsm.on=support"))
    assert not images_stay_as_they_are(split, clean, build_regularizers(attacked.reg, 1))


@pytest.fixture
def net_of_conv4(small):
    config = read_config(small("algo=protonet"))
    _, algorithm = build_algorithm(config.algo, 5, True)
    return build_net(backbone(config.backbone), algorithm, torch.nn.Sequential(), Normalize([0.0], [1.0]), 16)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "which run?"),
        (("run=null",), "which run?"),
        (("run=null", "backbone=conv4"), "this one has random weights"),
        (("run=null", "backbone=pixels", "algo=maml"), "run=null trains nothing, and algo=maml"),
        (("run=null", "backbone=pixels", "algo=matching", "algo.fce=true"), "algo=matching as it is set learns parts"),
        (("run=null", "backbone=pixels", "eval.unknown=0"), "eval.unknown"),
        (
            ("run=null", "backbone=pixels", "eval.unknown=5", "task=variable"),
            "expected tasks of a fixed way",
        ),
    ],
)
def test_a_bare_eval_stays_a_mistake(command_line, tiny_dir, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, said = command_line("eval", "--config-dir", str(tiny_dir), *words, "device=cpu", "eval.episodes=2")
    assert code == 1
    assert message in " ".join(said.split())
    assert "Traceback" not in said


def test_a_file_for_other_machines_names_no_folder_of_this_one():
    node: dict[str, Any] = {
        "_target_": "metalab.models.Torchvision",
        "name": "mobilenet_v2",
        "weights": "/home/me/a.pth",
    }
    config: Any = SimpleNamespace(backbone=node)
    assert backbone_words(config) == "torchvision mobilenet_v2 with /home/me/a.pth"
    assert backbone_words(config, folders=False) == "torchvision mobilenet_v2 with a.pth"
    node["weights"] = None
    assert backbone_words(config, folders=False) == "torchvision mobilenet_v2"


def test_classes_that_nothing_was_trained_on_are_refused(tiny):
    plain = replace(tiny["test"], by_image=True)
    with pytest.raises(UserError, match="measures the classifier that a run trained for tiny:"):
        evaluation_protocol(plain).refuse_untrained(plain)
