"""Relation networks: summed supports, the paper's loss and clipping, batch norm in the relation module, the oracle."""

import math
import re

import pytest
import torch
from easyfsl.methods import RelationNetworks
from torch import nn

from metalab.algorithms.metric_based.relation import RelationNet
from metalab.algorithms.objectives.losses import (
    binary_cross_entropy,
    binary_cross_entropy_of_shares,
    mean_squared_error,
)
from metalab.algorithms.objectives.prediction import PREDICTIONS, cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch
from metalab.models.backbones import Conv4, ResNet12
from metalab.models.layers import running_statistics
from metalab.models.relation_module import map_shape
from metalab.tracking.checkpoint import load
from metalab.training import train
from tests.algorithms.metric_cases import SIZE, WAY, apart, episodes, learner_of, net_of, one
from tests.configs import training_setup


def relation(pool="sum", way=WAY):
    return RelationNet(way, pool, 8)  # type: ignore[arg-type]


def model_of(algorithm, net, support):
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    return model


@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_the_maps_of_a_classs_supports_are_summed_or_averaged(pool):
    algorithm = relation(pool)
    net, (support, query) = net_of(algorithm, pooled=2), one(episodes(shot=3))
    maps = net("features", support.x)
    classes = torch.stack([getattr(maps[support.y == k], pool)(0) for k in range(WAY)])
    asked = net("features", query.x)
    pairs = torch.stack([torch.cat([c, q]) for q in asked for c in classes])
    assert pairs.shape[1:] == (8, 4, 4)
    expected = net("relation", pairs).reshape(-1, WAY)
    assert torch.allclose(model_of(algorithm, net, support)(query.x), expected, atol=1e-12)


def test_it_agrees_with_easyfsl():
    """Theirs averages; with our relation module behind a sigmoid the scores are the same."""
    algorithm = relation("mean")
    net, (support, query) = net_of(algorithm, pooled=2), one(episodes(shot=2))
    module = nn.Sequential(net.get_submodule("relation"), nn.Sigmoid())
    theirs = RelationNetworks(nn.Identity(), feature_dimension=4, relation_module=module)
    theirs.process_support_set(net("features", support.x), support.y)
    scores = theirs(net("features", query.x))
    assert torch.allclose(model_of(algorithm, net, support)(query.x).sigmoid(), scores, atol=1e-12)


def test_the_loss_is_the_squared_error_of_the_sigmoid_and_the_one_hot_label():
    logits, y = torch.tensor([[0.0, 100.0], [100.0, 0.0]]), torch.tensor([1, 1])
    batch = Batch(logits, y, logits[:0])
    assert mean_squared_error(lambda x: x, batch).item() == pytest.approx((0.25 + 0 + 1 + 0.25) / 4)
    binary = binary_cross_entropy(lambda x: x, batch).item()
    assert binary == pytest.approx((2 * math.log(2) + 100) / 4)


def test_the_share_of_a_softmax_is_a_yes_where_logits_are_never_above_0():
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]], dtype=torch.float64)
    batch = Batch(shares.log(), torch.tensor([0, 2]), shares[:0])
    expected = -torch.stack([(shares[0, 0] * 0.8 * 0.9).log(), (0.5 * 0.75 * shares[1, 2]).log()]).sum() / 6
    torch.testing.assert_close(binary_cross_entropy_of_shares(lambda x: x, batch), expected)
    sure = Batch(torch.tensor([[0.0, -200.0, -200.0]]), torch.tensor([0]), shares[:0])
    assert binary_cross_entropy_of_shares(lambda x: x, sure).item() == 0


def test_training_takes_the_papers_loss_and_clips_the_gradients_norm_at_one_half(small, monkeypatch, tmp_path):
    r = training_setup(small("algo=relation"))
    assert r.objective().objective.outer is mean_squared_error  # type: ignore[attr-defined]
    assert r.clip.clip_norm == 0.5
    other = training_setup(
        small("algo=relation", "algo.episode_loss=metalab.algorithms.objectives.binary_cross_entropy")
    )
    assert other.objective().objective.outer is binary_cross_entropy  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=re.escape("algo.episode_loss=metalab.nothing.here")):
        train.run(small("algo.episode_loss=metalab.nothing.here"), tmp_path)


def test_the_running_statistics_of_the_relation_module_are_those_of_training_and_not_of_the_last_batch(small, tmp_path):
    train.run(small("algo=relation", "train.steps=2"), tmp_path)
    state = load(tmp_path / "best.pt")["net"]
    means = {n: v for n, v in state.items() if n.startswith("relation.") and n.endswith("running_mean")}
    assert len(means) == 2
    assert all(v.abs().max() > 0 for v in means.values())


def test_a_query_leans_on_no_other_where_the_statistics_are_stored_or_the_supports():
    algorithm = relation()
    net, (support, query) = net_of(algorithm, pooled=2), one(episodes())
    changed = query.x.clone()
    changed[0] = 1 - changed[0]
    model = model_of(algorithm, net, support)
    for mode in ("batch", "support", "running"):
        before, after = (PREDICTIONS[mode](model, support.x, x) for x in (query.x, changed))
        if mode == "running":
            with running_statistics():
                model = model_of(algorithm, net, support)
                before, after = (PREDICTIONS[mode](model, support.x, x) for x in (query.x, changed))
        assert (before[0] - after[0]).abs().max() > 1e-6
        assert ((before[1:] - after[1:]).abs().max() > 1e-6) == (mode == "batch")


def test_the_supports_statistics_are_those_of_all_its_pairs():
    algorithm = relation()
    net, support = net_of(algorithm, pooled=2), one(episodes()).support
    model = model_of(algorithm, net, support)
    alone = model(support.x)  # batch statistics over the support's pairs with all classes
    assert torch.allclose(PREDICTIONS["support"](model, support.x, support.x), alone, atol=1e-12)


@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_both_engines_agree(pool):
    algorithm = relation(pool)
    net = net_of(algorithm, pooled=2)
    far, gradient = apart(
        QueryLoss(algorithm, 0, cross_entropy, mean_squared_error, predict_transductive), net, episodes()
    )
    assert far < 1e-10
    assert any(n.startswith("relation.") and g.abs().max() > 0 for n, g in gradient.items())


def test_any_backbone_will_do_and_a_map_of_one_position_is_not_pooled():
    conv, resnet = Conv4(4, 4, False, False).build(1, SIZE), ResNet12((4, 4, 4, 8), 0.0, 0.0, 0.0, 1).build(1, SIZE)
    assert (map_shape(conv, 4), map_shape(resnet, 8), map_shape(nn.Flatten(), 9)) == ((4, 1), (8, 1), (9, 1))
    net, (support, query) = net_of(relation(), pooled=4), one(episodes())
    assert model_of(relation(), net, support)(query.x).shape == (len(query.y), WAY)
