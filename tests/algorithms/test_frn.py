"""FRN: scikit-learn's ridge regression of each query map on each class, and the auxiliary loss pair by pair."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from metalab.algorithms.metric_based.frn import FRN
from metalab.algorithms.objectives.auxiliary import AuxiliaryLoss
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.core.errors import UserError
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one
from tests.algorithms.test_dn4 import uneven


def made(divided: bool = False, unit: str = "support") -> FRN:
    return FRN(WAY, divided, 0.03, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("shots", ["even", "uneven"])
def test_a_query_is_rebuilt_from_each_class_by_ridge_regression(shots, divided):
    algorithm, (support, query) = made(divided), one(episodes(shot=2))
    support, net = uneven(support) if shots == "uneven" else support, net_of(algorithm, pooled=2)
    with torch.no_grad():
        net.get_parameter("ridge.alpha").fill_(-0.5)
        net.get_parameter("ridge.beta").fill_(0.2)
        net.get_parameter("ridge.scale").fill_(1.7)
    root = 2.0 if divided else 1.0
    maps, asked = (net("features", x).detach().flatten(2).mT.numpy() / root for x in (support.x, query.x))  # [N,16,4]
    expected = np.zeros((len(asked), WAY))
    for k in range(WAY):
        pool = maps[support.y.numpy() == k].reshape(-1, 4)
        lam = len(pool) / 4 * np.exp(-0.5) + 1e-6
        for n, q in enumerate(asked):  # the columns of S' are the regressors of each descriptor
            fit = Ridge(alpha=lam, fit_intercept=False, solver="cholesky").fit(pool.T, q.T)
            expected[n, k] = -1.7 * ((np.exp(0.2) * fit.predict(pool.T).T - q) ** 2).sum(1).mean()
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    assert np.allclose(model(query.x).detach().numpy(), expected, atol=1e-10, rtol=0)
    assert expected.std(1).min() > 1e-6


@pytest.mark.parametrize("unit", ["support", "descriptor"])
def test_the_auxiliary_loss_is_of_all_pairs_of_two_classes(unit):
    algorithm, (support, query) = made(unit=unit), one(episodes(shot=2))
    net = net_of(algorithm, pooled=2)
    known, asked = (net("features", batch.x) for batch in (support, query))
    rows = known.flatten(2).mT
    length = rows.norm(dim=2, keepdim=True).clamp(min=1e-12) if unit == "descriptor" else rows.square().sum().sqrt()
    sets = [(rows / length)[support.y == k].flatten(0, 1) for k in range(WAY)]
    expected = sum((sets[i] @ sets[j].T).square().sum() for i in range(WAY) for j in range(WAY) if i != j)
    expected = expected if unit == "descriptor" else expected / 2  # their code has each pair once
    got = algorithm.auxiliary_loss(learner_of(net), known, support.y, asked, query.y)
    assert torch.allclose(got, torch.as_tensor(expected), rtol=1e-10)
    assert got > 5e-4


@pytest.mark.parametrize("unit", ["support", "descriptor"])
def test_both_engines_agree(unit):
    algorithm = made(unit=unit)
    net = net_of(algorithm, pooled=2)
    what = AuxiliaryLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive)
    far, gradient = apart(what, net, episodes())
    assert far < 1e-10
    assert all(gradient[f"ridge.{name}"].abs() > 0 for name in ("alpha", "beta", "scale"))


def test_a_weight_below_zero_is_refused():
    with pytest.raises(UserError, match=r"^algo.auxiliary=-1"):
        FRN(WAY, False, -1.0, "support")
