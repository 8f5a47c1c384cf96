"""CovaMNet: torch's covariance of each class's local descriptors."""

import pytest
import torch
import torch.nn.functional as F

from metalab.algorithms.metric_based.covamnet import CovaMNet
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one


def test_a_query_is_measured_by_the_covariance_of_each_classs_descriptors():
    algorithm = CovaMNet(WAY)
    net, (support, query) = net_of(algorithm, pooled=2), one(episodes(shot=2))
    maps, asked = (net("features", x).flatten(2).mT for x in (support.x, query.x))  # [N,16,4]
    assert maps.shape[1:] == (16, 4)
    weights = net.get_parameter("joined.weight")[0]
    expected = torch.empty(len(asked), WAY).double()
    for k in range(WAY):
        covariance = torch.cov(maps[support.y == k].flatten(0, 1).T)
        for n, descriptors in enumerate(F.normalize(asked, dim=2)):
            expected[n, k] = sum(w * x @ covariance @ x for w, x in zip(weights, descriptors, strict=True))
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    assert torch.allclose(model(query.x), expected, atol=1e-12)


def test_a_querys_channels_may_have_length_1_over_all_positions_as_in_its_code():
    """Its loops by hand: a query [D,P] over the norm of each of its rows, and the diagonal of q' cov q."""
    algorithm = CovaMNet(WAY, "channel")
    net, (support, query) = net_of(algorithm, pooled=2), one(episodes(shot=2))
    maps, asked = (net("features", x).flatten(2) for x in (support.x, query.x))  # [N,4,16]
    weights = net.get_parameter("joined.weight")[0]
    expected = torch.empty(len(asked), WAY).double()
    for k in range(WAY):
        known = maps[support.y == k].permute(1, 0, 2).reshape(maps.shape[1], -1)
        known = known - known.mean(1, keepdim=True)
        covariance = known @ known.T / (known.shape[1] - 1)
        for n, q in enumerate(asked):
            unit = q / q.norm(dim=1, keepdim=True)
            expected[n, k] = weights @ (unit.T @ covariance @ unit).diag()
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    assert torch.allclose(model(query.x), expected, atol=1e-12)


@pytest.mark.parametrize("unit", ["descriptor", "channel"])
def test_both_engines_agree(unit):
    algorithm = CovaMNet(WAY, unit)
    net = net_of(algorithm, pooled=2)
    far, gradient = apart(QueryLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive), net, episodes())
    assert far < 1e-10
    assert gradient["joined.weight"].abs().max() > 0
