"""FEAT: easyfsl's and the authors' attention on the same weights, and the contrastive loss by hand."""

import pytest
import torch
import torch.nn.functional as F
from easyfsl.methods import FEAT as TheirFEAT
from easyfsl.modules import MultiHeadAttention
from torch import nn

from metalab.algorithms.components.set_attention import SetAttention
from metalab.algorithms.metric_based.feat import FEAT
from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.algorithms.objectives.auxiliary import AuxiliaryLoss
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one

NAMES = {"w_qs": "query", "w_ks": "key", "w_vs": "value", "fc": "out", "layer_norm": "norm"}


def made(auxiliary: float = 1.0, dropout: float = 0.0) -> FEAT:
    return FEAT(WAY, 64.0, auxiliary, 16.0, dropout)


def theirs_of(ours: nn.Module, features: int) -> MultiHeadAttention:
    """easyfsl's module with the weights of ours; it is the authors' (model/models/feat.py)."""
    attention = MultiHeadAttention(1, features, features, features).double().eval()
    own = ours.state_dict()
    found = {k: own[k.replace(name, NAMES[name])] for k in attention.state_dict() for name in NAMES if name in k}
    attention.load_state_dict(found)
    return attention


def objective(kind, algorithm):
    return kind(algorithm, 0, cross_entropy, cross_entropy, predict_transductive)


@pytest.mark.parametrize("shot", [1, 2])
def test_queries_are_classified_as_by_easyfsl(shot):
    algorithm = made()
    net, (support, query) = net_of(algorithm), one(episodes(shot))
    known, asked = (net("features", x).flatten(1) for x in (support.x, query.x))
    theirs = TheirFEAT(nn.Identity(), attention_module=theirs_of(net.get_submodule("attention"), known.shape[1]))
    theirs.process_support_set(known, support.y)
    expected = -torch.cdist(asked, theirs.prototypes).square() / 64  # their own scores are roots, without temperature
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    assert torch.allclose(model(query.x), expected, atol=1e-12)
    assert torch.equal(model(query.x).argmax(1), theirs(asked).argmax(1))


def test_the_contrastive_loss_adapts_each_classs_images_among_themselves():
    """The authors' way: a set a class, whose size is shot and queries, through their module."""
    algorithm = made(auxiliary=0.5)
    net, (support, query) = net_of(algorithm), one(episodes(shot=2))
    known, asked = (net("features", batch.x) for batch in (support, query))
    maps, labels = torch.cat([known, asked]).flatten(1), torch.cat([support.y, query.y])
    attention = theirs_of(net.get_submodule("attention"), maps.shape[1])
    sets = torch.stack([maps[labels == k] for k in range(WAY)])  # [K,S+Q,D]
    centres = attention(sets, sets, sets)[0].mean(1)
    expected = F.cross_entropy(-torch.cdist(maps, centres).square() / 16, labels)
    got = algorithm.auxiliary_loss(learner_of(net), known, support.y, asked, query.y)
    assert torch.allclose(got, expected, atol=1e-12)
    assert expected > 0.1


def test_the_objective_adds_it_in_training_and_shows_the_queries_alone():
    net, episode = net_of(made()), one(episodes(shot=2))
    learner, progress = learner_of(net), torch.zeros(())
    plain = objective(QueryLoss, made())(learner, episode, progress)
    known, asked = (net("features", batch.x) for batch in episode)
    more = made().auxiliary_loss(learner, known, episode.support.y, asked, episode.query.y)
    found = objective(AuxiliaryLoss, made(auxiliary=0.5))(learner, episode, progress)
    assert torch.allclose(found.loss, plain.loss + 0.5 * more, atol=1e-12)
    assert torch.equal(found.scalars["loss"], plain.scalars["loss"])
    off = objective(AuxiliaryLoss, made(auxiliary=0.0))(learner, episode, progress)
    assert torch.equal(off.loss, plain.loss)
    assert more > 0.1


@pytest.mark.parametrize("shot", [1, 2])
def test_both_engines_agree(shot):
    algorithm = made()
    far, gradient = apart(objective(AuxiliaryLoss, algorithm), net_of(algorithm), episodes(shot))
    assert far < 1e-10
    assert gradient["attention.query.weight"].abs().max() > 0


def test_a_set_has_no_order_and_drops_in_training_alone():
    torch.manual_seed(0)
    layer, x, order = SetAttention(6, 0.5).double(), torch.randn(5, 6).double(), torch.randperm(5)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.allclose(layer(x[order]), layer(x)[order], atol=1e-12)


def test_an_objective_of_algorithms_with_a_loss_of_their_own_says_so():
    with pytest.raises(UserError, match="takes an algorithm with a loss of its own"):
        objective(AuxiliaryLoss, ProtoNet(WAY))


@pytest.mark.parametrize(("key", "value"), [("temperature", 0.0), ("auxiliary", -1.0), ("dropout", 1.0)])
def test_a_value_out_of_range_is_refused(key, value):
    with pytest.raises(UserError, match=f"^algo.{key}="):
        FEAT(
            **{"way": 3, "temperature": 1.0, "auxiliary": 1.0, "auxiliary_temperature": 1.0, "dropout": 0.0, key: value}
        )
