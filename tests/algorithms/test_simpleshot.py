"""SimpleShot: its three transforms, the mean of training features, another run's net, and its oracle."""

import json
import logging

import pytest
import torch
import torch.nn.functional as F
from easyfsl.methods import SimpleShot as Theirs
from torch import nn

from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.algorithms.transfer_learning.simpleshot import SimpleShot
from metalab.core.errors import UserError
from metalab.evaluation import evaluate
from metalab.models.layers import running_statistics
from metalab.tracking import checkpoint
from metalab.training import train
from tests.algorithms.metric_cases import WAY, episodes, learner_of, net_of, one
from tests.configs import net_in


def logits(transform, net, support, x):
    (model,) = SimpleShot(WAY, transform).adapt(learner_of(net), support, cross_entropy, 0)
    return model(x)


@pytest.fixture
def net():
    net = net_of(SimpleShot(WAY, "cl2n"))
    net.get_buffer("centre.running_mean").copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    return net


@pytest.mark.parametrize("transform", ["un", "l2n", "cl2n"])
def test_the_nearest_centroid_of_transformed_features_by_hand(net, transform):
    support, query = one(episodes(shot=3))
    known, asked = (net("features", x).flatten(1) for x in (support.x, query.x))
    if transform == "cl2n":
        known, asked = (f - torch.tensor([0.1, 0.2, 0.3, 0.4]).double() for f in (known, asked))
    if transform != "un":
        known, asked = (f / f.square().sum(1, keepdim=True).sqrt() for f in (known, asked))
    centroids = torch.stack([known[support.y == k].mean(0) for k in range(WAY)])
    expected = -(asked[:, None] - centroids).square().sum(2)
    assert torch.allclose(logits(transform, net, support, query.x), expected, atol=1e-6)


def test_it_agrees_with_easyfsl_in_one_shot(net):
    """Theirs is the cosine to the centroid; of unit features in one shot -|q - c|^2 = 2 cos - 2."""
    support, query = one(episodes(shot=1))
    centre = net.get_buffer("centre.running_mean")
    for transform, given in (("l2n", None), ("cl2n", centre)):
        theirs = Theirs(nn.Identity(), feature_centering=given, feature_normalization=2.0)
        theirs.process_support_set(net("features", support.x).flatten(1), support.y)
        cosine = theirs(net("features", query.x).flatten(1))
        assert torch.allclose(logits(transform, net, support, query.x), 2 * cosine - 2, atol=1e-10)


def test_the_centre_of_training_is_the_mean_feature_of_training_images(small, tmp_path, tiny):
    cfg = small("algo=simpleshot", "task.train_way=null", "train.steps=2", "train.val_every=2")
    train.run(cfg, tmp_path)
    saved = checkpoint.load(tmp_path / "best.pt")
    found = saved["net"]["centre.running_mean"]
    net = net_in(cfg, saved)
    x = tiny["train"].images.float() / 255
    expected = net("features", x).flatten(1).mean(0)
    assert F.cosine_similarity(found, expected, dim=0) > 0.98  # on other images, in batches of their own
    assert found.norm() > 0


@pytest.mark.slow
def test_it_takes_the_net_of_another_algorithms_run_and_says_what_it_leaves(small, tmp_path, tiny, caplog):
    caplog.set_level(logging.INFO)
    train.run(small("algo=maml", "train.meta_batch=1"), tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run" / "best.pt")
    cfg = small("algo=simpleshot", "data.absent=''", "task.train_way=null")
    evaluate.run([(tmp_path / "run", cfg)], tmp_path / "eval")
    assert json.loads((tmp_path / "eval" / "eval.json").read_text())["algo"] == "simpleshot"
    net = net_in(cfg, saved)
    x = tiny["train"].images[:: len(tiny["train"].images) // 1000 or 1].float() / 255
    with running_statistics():
        expected = net("features", x).flatten(1).mean(0)
    assert torch.allclose(net.get_buffer("centre.running_mean"), expected, atol=1e-5)
    relation = tmp_path / "relation"
    train.run(small("algo=relation", "backbone=conv4"), relation)
    evaluate.run([(relation, small("algo=simpleshot", "data.absent=''", "algo.transform=l2n"))], tmp_path / "second")
    assert "algo=simpleshot on the net of relation: not taken: relation" in caplog.text
    with pytest.raises(UserError, match=r"^the checkpoint does not fit algo=simpleshot .* the first is body"):
        evaluate.run([(relation, small("algo=simpleshot", "data.absent=''", "backbone.filters=8"))], tmp_path / "third")


@pytest.mark.slow
def test_the_centre_is_of_the_runs_training_images_whatever_it_is_tested_on(small, tmp_path, caplog):
    run = tmp_path / "run"
    train.run(small("algo=maml", "train.meta_batch=1"), run)
    words = ("algo=simpleshot", "task.train_way=null", "data.absent=''")
    here = net_in(small(*words), checkpoint.load(run / "best.pt")).get_buffer("centre.running_mean")
    other = ("data=glyphs", "data.images=8", f"data.cache={tmp_path}", "data.size=16")
    given = [word for word in words if "absent" not in word]
    cfg = small(*other, *given)
    assert torch.equal(net_in(cfg, checkpoint.load(run / "best.pt")).get_buffer("centre.running_mean"), here)
    evaluate.run([(run, cfg)], tmp_path / "eval")
    saved = checkpoint.load(run / "best.pt")
    saved["data"]["train"] = "of other images"
    with pytest.raises(
        UserError, match=r"^algo=simpleshot takes feature statistics .* and there are others in their pla"
    ):
        net_in(cfg, saved)
    saved["config"]["data"] = {"_target_": "metalab.data.Folder"}
    with pytest.raises(UserError, match=r"^algo=simpleshot takes feature statistics .*, which are not at hand: "):
        net_in(cfg, saved)
