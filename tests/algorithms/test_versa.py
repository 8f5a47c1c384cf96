"""VERSA: its mean probability by hand, what is drawn, and both engines."""

from typing import Any

import pytest
import torch

from metalab.algorithms.components.fixed_draws import normal_numbers
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.algorithms.solver_based.versa import VERSA
from metalab.core.errors import UserError
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one


def logits(algorithm, net, support, x):
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    return model(x)


@pytest.mark.parametrize("shot", [1, 2])
def test_the_logits_are_the_log_of_the_mean_probability_of_the_classifiers_drawn(shot):
    algorithm = VERSA(WAY, 4, "fixed")
    net, (support, query) = net_of(algorithm), one(episodes(shot))
    known, asked = (net("features", x).flatten(1) for x in (support.x, query.x))
    amortizer: Any = net.get_submodule("amortizer")
    size = known.shape[1]
    probabilities = []
    for noise in torch.from_numpy(normal_numbers(4, WAY, size + 1)).double():
        columns = []
        for k in range(WAY):
            mean_feature = known[support.y == k].mean(0)
            one_, deviation = (
                amortizer.weight_mean(mean_feature),
                amortizer.weight_log_variance(mean_feature).exp().sqrt(),
            )
            weight = one_ + deviation * noise[k, :-1]
            bias = (
                amortizer.bias_mean(mean_feature)
                + amortizer.bias_log_variance(mean_feature).exp().sqrt() * noise[k, -1]
            )
            columns.append(asked @ weight + bias)
        probabilities.append(torch.stack(columns, 1).softmax(1))
    expected = torch.stack(probabilities).mean(0)
    assert torch.allclose(logits(algorithm, net, support, query.x).exp(), expected, atol=1e-12)
    assert (probabilities[0] - probabilities[1]).abs().max() > 1e-3


def test_a_class_is_inferred_from_its_own_images_alone_and_any_way_will_do():
    net, (support, query) = net_of(VERSA(WAY, 1, "fixed")), one(episodes())
    two = support.y < 2
    fewer = support._replace(x=support.x[two], y=support.y[two])
    means = [learner_of(net).features(support.x[support.y == k]).flatten(1).mean(0, keepdim=True) for k in range(2)]
    both = net("amortizer", torch.cat(means))
    assert torch.allclose(both[:1], net("amortizer", means[0]), atol=1e-12)
    assert logits(VERSA(2, 3, "fixed"), net, fewer, query.x).shape == (len(query.y), 2)


def test_fixed_draws_are_the_same_and_those_of_training_are_not():
    net, (support, query) = net_of(VERSA(WAY, 4, "anew")), one(episodes())
    first, second = (logits(VERSA(WAY, 4, "fixed"), net, support, query.x) for _ in range(2))
    assert torch.equal(first, second)
    first, second = (logits(VERSA(WAY, 4, "anew"), net, support, query.x) for _ in range(2))
    assert not torch.allclose(first, second)
    many = logits(VERSA(WAY, 20000, "anew"), net, support, query.x).exp()
    assert torch.allclose(many, logits(VERSA(WAY, 20000, "fixed"), net, support, query.x).exp(), atol=0.02)


@pytest.mark.parametrize("shot", [1, 2])
def test_both_engines_agree(shot):
    algorithm = VERSA(WAY, 4, "fixed")
    objective = QueryLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive)
    far, gradient = apart(objective, net_of(algorithm), episodes(shot))
    assert far < 1e-10
    alike = "mean.4.bias"  # they add the same to all classes
    own = [g.abs().max() for n, g in gradient.items() if n.startswith("amortizer.") and not n.endswith(alike)]
    assert min(own) > 1e-6


def test_no_samples_are_refused():
    with pytest.raises(UserError, match=r"^algo\.samples=0"):
        VERSA(WAY, 0, "fixed")
