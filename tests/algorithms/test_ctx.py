"""CTX: attention in loops over positions, and what follows from its form."""

import pytest
import torch

from metalab.algorithms.metric_based.ctx import CTX
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one
from tests.algorithms.test_dn4 import uneven


@pytest.mark.parametrize("pooled", [2, 4])  # maps of 4x4, and of one position
@pytest.mark.parametrize("shots", ["even", "uneven"])
def test_each_position_is_compared_with_what_it_attends_to(shots, pooled):
    algorithm, (support, query) = CTX(WAY, 5, 6), one(episodes(shot=2))
    support, net = uneven(support) if shots == "uneven" else support, net_of(algorithm, pooled)
    key, value = (net.get_parameter(f"{name}.weight").detach() for name in ("key", "value"))  # [5,4], [6,4]
    maps, asked = (net("features", x).detach().flatten(2).mT for x in (support.x, query.x))  # [N,P,4]
    expected = torch.zeros(len(asked), WAY).double()
    for n, descriptors in enumerate(asked):
        for k in range(WAY):
            pool = maps[support.y == k].flatten(0, 1)
            for p in descriptors:
                weights = torch.stack([((key @ p) @ (key @ m) / 5**0.5).exp() for m in pool])
                prototype = sum(w * (value @ m) for w, m in zip(weights, pool, strict=True)) / weights.sum()
                expected[n, k] -= (value @ p - prototype).square().sum() / len(descriptors)
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    assert torch.allclose(model(query.x), expected, atol=1e-12)
    assert expected.std(1).min() > 1e-6


def test_of_one_position_and_one_shot_it_is_the_nearest_value():
    """The softmax of one number is 1: a prototypical network on the values."""
    algorithm, (support, query) = CTX(WAY, 5, 6), one(episodes(shot=1))
    net = net_of(algorithm)
    known, asked = (net("value", net("features", x).flatten(1)) for x in (support.x, query.x))
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    expected = -torch.cdist(asked, known).square()[:, support.y.argsort()]
    assert torch.allclose(model(query.x), expected, atol=1e-12)


def test_both_engines_agree():
    algorithm = CTX(WAY, 5, 6)
    net = net_of(algorithm, pooled=2)
    what = QueryLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive)
    far, gradient = apart(what, net, episodes())
    assert far < 1e-10
    assert all(gradient[f"{name}.weight"].abs().max() > 0 for name in ("key", "value"))


@pytest.mark.parametrize("sizes", [(0, 6), (5, 0)])
def test_no_channels_are_refused(sizes):
    with pytest.raises(UserError, match=r"^algo.(key|value)=0"):
        CTX(WAY, *sizes)
