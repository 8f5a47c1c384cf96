"""DN4: the image-to-class measure in loops."""

import pytest
import torch
import torch.nn.functional as F

from metalab.algorithms.metric_based.dn4 import DN4
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one


def uneven(support: Batch) -> Batch:
    """The support without one of its images: a class has fewer than the others."""
    return support._replace(x=support.x[1:], y=support.y[1:])


@pytest.mark.parametrize("pooled", [2, 4])  # maps of 4x4, and of one position: fewer descriptors than neighbours
@pytest.mark.parametrize("shots", ["even", "uneven"])
def test_each_descriptor_counts_its_nearest_ones_in_each_class(shots, pooled):
    algorithm, (support, query) = DN4(WAY, 3), one(episodes(shot=2))
    support, net = uneven(support) if shots == "uneven" else support, net_of(algorithm, pooled)
    maps, asked = (net("features", x).detach().flatten(2).mT for x in (support.x, query.x))  # [N,P,4]
    expected = torch.zeros(len(asked), WAY).double()
    for n, descriptors in enumerate(asked):
        for k in range(WAY):
            pool = maps[support.y == k].flatten(0, 1)
            for q in descriptors:
                near = sorted((float(F.cosine_similarity(q, d, dim=0)) for d in pool), reverse=True)[:3]
                expected[n, k] += 3 * sum(near) / len(near)
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    assert torch.allclose(model(query.x), expected, atol=1e-12)
    assert expected.std(1).min() > 1e-6


def test_both_engines_agree():
    algorithm = DN4(WAY, 3)
    net = net_of(algorithm, pooled=2)
    far, gradient = apart(QueryLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive), net, episodes())
    assert far < 1e-10
    assert gradient["body.0.0.weight"].abs().max() > 0


def test_no_neighbour_is_refused():
    with pytest.raises(UserError, match=r"^algo.neighbours=0"):
        DN4(WAY, 0)
