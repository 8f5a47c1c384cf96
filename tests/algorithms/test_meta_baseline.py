"""Meta-Baseline: their two lines by hand, and its second stage."""

import math

import pytest
import torch
import torch.nn.functional as F

from metalab.algorithms.metric_based.meta_baseline import MetaBaseline
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from metalab.training import train
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one


def test_a_query_is_compared_with_the_mean_of_each_class():
    algorithm = MetaBaseline(WAY, 10.0, True)
    net, (support, query) = net_of(algorithm), one(episodes(shot=2))
    known, asked = (net("features", x).flatten(1) for x in (support.x, query.x))
    tau = math.exp(-float(net.get_parameter("sharpness.log").detach()))  # net_of moves it a little
    means = torch.stack([known[support.y == k].mean(0) for k in range(WAY)])
    expected = torch.stack([tau * F.cosine_similarity(asked, mean[None]) for mean in means], 1)
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    assert torch.allclose(model(query.x), expected, atol=1e-12)
    assert tau == pytest.approx(10, rel=0.2)


def test_both_engines_agree():
    algorithm = MetaBaseline(WAY, 10.0, True)
    far, gradient = apart(
        QueryLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive), net_of(algorithm), episodes()
    )
    assert far < 1e-10
    assert gradient["sharpness.log"].abs() > 0


def test_a_scale_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"^algo.scale=0"):
        MetaBaseline(WAY, 0.0, True)


@pytest.mark.slow
def test_the_second_stage_begins_with_the_classifiers_body(small, tmp_path):
    first = small("algo=baseline", "task.train_way=null", "train.steps=2")
    train.run(first, tmp_path / "first")
    words = ("algo=meta_baseline", "train.meta_batch=1", "train.steps=1", "train.val_every=1")
    train.run(small(*words, f"train.init={tmp_path / 'first'}"), tmp_path / "second")
    start, body = (torch.load(tmp_path / name / "best.pt", weights_only=True)["net"] for name in ("first", "second"))
    moved = (body["body.0.0.weight"] - start["body.0.0.weight"]).abs().max()
    assert 0 < moved < 0.01  # one step of Adam's from there
