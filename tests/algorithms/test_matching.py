"""Matching networks: attention by hand, temperature, full context embeddings, and their oracle."""

import re

import pytest
import torch
import torch.nn.functional as F
from easyfsl.methods import MatchingNetworks
from torch import nn

from metalab.algorithms.components.lstm import LSTMCell
from metalab.algorithms.metric_based.matching import Matching
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.training import train
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one


def matching(similarity="cosine", temperature=0.1, learned=False, fce=False, steps=None):
    return Matching(WAY, similarity, temperature, learned, fce, steps)  # type: ignore[arg-type]


def logits(algorithm, net, support, x):
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    return model(x)


def test_the_logits_are_log_probabilities_of_attention_over_all_supports_not_over_means():
    algorithm = matching(temperature=0.5)
    net, (support, query) = net_of(algorithm), one(episodes(shot=3))
    known, asked = (F.normalize(net("features", x).flatten(1), dim=1) for x in (support.x, query.x))
    attention = torch.softmax(asked @ known.T / 0.5, 1)
    expected = attention @ torch.eye(WAY).double()[support.y]
    found = logits(algorithm, net, support, query.x)
    assert torch.allclose(found.exp(), expected, atol=1e-12)
    assert F.cross_entropy(found, query.y).item() == pytest.approx(F.nll_loss(expected.log(), query.y).item())


def test_cosines_alone_cannot_be_sure_and_a_temperature_can():
    """At temperature 1 the cosine is at most 1 and at least -1: no share is above e^2 / (e^2 + way - 1)."""
    net, (support, _) = net_of(matching()), one(episodes(shot=1))
    unsure, sure = (logits(matching(temperature=t), net, support, support.x).exp() for t in (1.0, 1e-4))
    most = torch.e**2 / (torch.e**2 + WAY - 1)
    assert unsure.max() < most < 0.999 < sure.max()


@pytest.mark.parametrize("similarity", ["relu_cosine", "half_cosine", "euclidean"])
def test_the_similarities_by_hand(similarity):
    a, b = torch.tensor([[3.0, 4.0], [-1.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    by_hand = {"relu_cosine": [[0.6], [0.0]], "half_cosine": [[3.0], [-1.0]], "euclidean": [[-17.0], [-9.0]]}
    torch.testing.assert_close(matching(similarity)._alike(a, b), torch.tensor(by_hand[similarity]))


def test_the_cell_is_torchs_lstm_cell():
    torch.manual_seed(0)
    mine, theirs = LSTMCell(3, 4).double(), nn.LSTMCell(3, 4).double()
    with torch.no_grad():
        for own, name in ((mine.given, "ih"), (mine.state, "hh")):
            own.weight.copy_(theirs.get_parameter(f"weight_{name}"))
            own.bias.copy_(theirs.get_parameter(f"bias_{name}"))
    x, h, c = (torch.randn(2, n).double() for n in (3, 4, 4))
    assert torch.allclose(mine(x, h, c), torch.stack(theirs(x, (h, c))), atol=1e-14)
    with torch.no_grad():
        fresh = LSTMCell(3, 4)
    assert torch.equal(fresh.given.bias, torch.tensor([0.0] * 4 + [1.0] * 4 + [0.0] * 8))


def easyfsl_of(net, fce):
    """Easyfsl's classifier with the same weights: its cell reads [f', r] and [h], ours [f'] and [h, r]."""
    width = 4
    theirs = MatchingNetworks(nn.Identity(), feature_dimension=width).double()
    with torch.no_grad():
        for p in theirs.parameters():
            p.zero_()
        for name, end in (("forwards", "_l0"), ("backwards", "_l0_reverse")) if fce else ():
            cell = net.get_submodule(name)
            for own, there in ((cell.given, "ih"), (cell.state, "hh")):
                theirs.support_features_encoder.get_parameter(f"weight_{there}{end}").copy_(own.weight)
                theirs.support_features_encoder.get_parameter(f"bias_{there}{end}").copy_(own.bias)
        if fce:
            cell, other = net.get_submodule("reading"), theirs.query_features_encoding_cell
            new = {
                "weight_ih": torch.cat([cell.given.weight, cell.state.weight[:, width:]], 1),
                "weight_hh": cell.state.weight[:, :width],
                "bias_ih": cell.given.bias + cell.state.bias,
                "bias_hh": torch.zeros(4 * width),
            }
            other.load_state_dict(new)
    return theirs


@pytest.mark.parametrize("fce", [False, True])
def test_it_agrees_with_easyfsl(fce):
    """Their queries keep their length, they have no temperature, and always context: zero weights give none."""
    algorithm = matching("half_cosine", 1.0, fce=fce)
    net, (support, query) = net_of(algorithm), one(episodes(shot=2))
    theirs = easyfsl_of(net, fce)
    theirs.process_support_set(net("features", support.x).flatten(1), support.y)
    theirs.one_hot_support_labels = theirs.one_hot_support_labels.double()
    expected = theirs(net("features", query.x).flatten(1)).exp() - 1e-6
    assert (logits(algorithm, net, support, query.x).exp() - expected).abs().max() < 1e-10


def test_the_order_of_the_support_matters_to_full_context_embeddings_alone_and_the_sampler_shuffles_it(tiny):
    support, query = one(episodes(shot=2))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    other = support._replace(x=support.x[order], y=support.y[order])
    for fce in (False, True):
        algorithm = matching(fce=fce)
        net = net_of(algorithm)
        moved = (logits(algorithm, net, support, query.x) - logits(algorithm, net, other, query.x)).abs().max()
        assert moved > 1e-4 if fce else moved < 1e-12
    labels = EpisodeSampler(tiny["train"], 5, 2, 1, 8, 0, "train", torch.device("cpu"))(0).support.y
    assert len({tuple(row.tolist()) for row in labels}) > 4


def test_a_query_reads_the_support_as_many_times_as_told():
    support, query = one(episodes(shot=1))
    net = net_of(matching(fce=True))
    found = {k: logits(matching(fce=True, steps=k), net, support, query.x) for k in (1, 2, WAY)}
    assert torch.equal(found[WAY], logits(matching(fce=True), net, support, query.x))
    assert (found[1] - found[2]).abs().max() > 1e-6


@pytest.mark.parametrize("similarity", ["cosine", "relu_cosine", "half_cosine", "euclidean"])
@pytest.mark.parametrize("fce", [False, True])
def test_both_engines_agree(similarity, fce):
    algorithm = matching(similarity, learned=True, fce=fce)
    net = net_of(algorithm)
    far, gradient = apart(QueryLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive), net, episodes())
    assert far < 1e-10
    assert gradient["sharpness.log"].abs() > 0


def test_a_learned_temperature_starts_where_it_is_told():
    support, query = one(episodes())
    algorithm = matching(temperature=0.2, learned=True)
    net = net_of(algorithm)
    with torch.no_grad():
        net.get_parameter("sharpness.log").copy_(algorithm.parts(nn.Identity(), 4)["sharpness"].get_parameter("log"))
    fixed = logits(matching(temperature=0.2), net, support, query.x)
    assert torch.allclose(logits(algorithm, net, support, query.x), fixed, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("algo.temperature=0",), "algo.temperature=0: expected a number above 0"),
        (("algo.fce_steps=0",), "algo.fce_steps=0: expected 1 or more, or null for one a support image"),
        (("algo.similarity=dot",), "algo.similarity=dot"),
    ],
)
def test_a_value_out_of_range_is_refused(words, message, small, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        train.run(small("algo=matching", *words), tmp_path)
