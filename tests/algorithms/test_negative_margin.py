"""Negative margin: the loss of training by hand, with mixtures of two labels, and a head of the test without it."""

import pytest
import torch
import torch.nn.functional as F

from metalab.algorithms.objectives.build import training_loss
from metalab.algorithms.objectives.classification import ClassificationLoss
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.transfer_learning.baselinepp import BaselinePP
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode
from metalab.regularizers.mixup import mixed
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one
from tests.configs import training_setup

SGD_ = (2, 4, 0.01, 0.9, 0.9, 1e-3)  # epochs, batch, lr, momentum, dampening, weight decay


def made(margin: float) -> BaselinePP:
    return BaselinePP(WAY, 30.0, *SGD_, margin=margin, gain=False)


@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.2])
def test_the_logit_of_the_own_class_is_less_by_the_margin(margin):
    net, (_, query) = net_of(made(margin)), one(episodes())
    learner, weight = learner_of(net), net.get_parameter("head.weight")
    cosines = F.normalize(net("features", query.x).flatten(1), dim=1) @ F.normalize(weight, dim=1).T
    expected = F.cross_entropy(30 * (cosines - margin * F.one_hot(query.y, WAY)), query.y)
    assert torch.allclose(training_loss(cross_entropy, made(margin))(learner, query), expected, atol=1e-12)
    assert torch.allclose(learner(query.x), 30 * cosines, atol=1e-12)  # what is right is told without it
    assert "head.gain" not in dict(net.named_parameters())


def test_a_mixture_has_the_margin_of_each_of_its_labels():
    net, (_, query) = net_of(made(-0.3)), one(episodes())
    loss = mixed(lambda x, other: (x, torch.tensor(0.25)))(training_loss(cross_entropy, made(-0.3)))
    torch.manual_seed(0)
    got = loss(learner_of(net), query)
    torch.manual_seed(0)
    order = torch.rand_like(query.x[:, 0, 0, 0]).argsort()
    logits = net("logits", query.x)
    one_hot = 9 * F.one_hot(query.y, WAY)
    both = [F.cross_entropy(logits + hot, y) for hot, y in ((one_hot, query.y), (one_hot[order], query.y[order]))]
    assert torch.allclose(got, 0.25 * both[0] + 0.75 * both[1], atol=1e-12)
    assert not torch.equal(query.y[order], query.y)


def test_training_has_the_margin_and_baselinepp_has_none(small):
    _, query = one(episodes())
    nothing = Batch(query.x[:0], query.y[:0], query.x[:0])
    losses = []
    for margin in (0.0, -0.3):
        r = training_setup(small("algo=negative_margin", f"algo.margin={margin}", "task.train_way=null"))
        learner = learner_of(net_of(r.train_algorithm))
        losses.append(r.objective()(learner, Episode(nothing, query), torch.zeros(())).loss.item())
    assert losses[0] - losses[1] > 1  # the logit of the own class is 30 x 0.3 higher
    assert training_loss(cross_entropy, BaselinePP(WAY, 2.0, *SGD_)) is cross_entropy


def test_both_engines_agree():
    algorithm = made(-0.3)
    loss = training_loss(cross_entropy, algorithm)
    what = ClassificationLoss(algorithm, 0, loss, loss, predict_transductive)
    far, gradient = apart(what, net_of(algorithm), episodes())
    assert far < 1e-10
    assert gradient["head.weight"].abs().max() > 0


@pytest.mark.parametrize("margin", [-2.0, 2.0])
def test_a_margin_that_no_cosines_differ_by_is_refused(margin):
    with pytest.raises(UserError, match=r"^algo.margin="):
        made(margin)
