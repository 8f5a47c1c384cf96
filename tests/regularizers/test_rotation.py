"""Rotation: turned copies by numpy, both losses by hand, on both engines."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metalab.algorithms.objectives.auxiliary import AuxiliaryLoss
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from metalab.regularizers import rotation
from metalab.regularizers.base import ObjectiveContext
from metalab.regularizers.rotation import PART, Rotation, turned
from tests.algorithms.metric_cases import apart, episodes, learner_of, net_of, one
from tests.algorithms.test_feat import made


def objective(how: Rotation):
    """FEAT's query loss with it: an objective of an algorithm that has a part of its own."""
    plain = lambda outer: QueryLoss(made(), 0, cross_entropy, outer, predict_transductive)  # noqa: E731
    return how.hooks().wrap_objective(plain, ObjectiveContext(made(), 0, cross_entropy))(cross_entropy)


def net_with(how: Rotation):
    net = net_of(made())
    torch.manual_seed(1)
    for name, part in how.hooks().parts(4).items():
        net.add_module(name, part.double())
    return net


def test_a_share_of_the_images_is_turned_by_each_quarter():
    _, query = one(episodes(query=4))
    torch.manual_seed(0)
    found, turns = turned(query, 0.5)
    torch.manual_seed(0)
    chosen = torch.rand_like(query.x[:, 0, 0, 0]).argsort()[:6]
    for i in range(24):
        image, quarter = chosen[i % 6], i // 6
        assert np.array_equal(found.x[i, 0].numpy(), np.rot90(query.x[image, 0].numpy(), quarter))
        assert found.y[i] == query.y[image]
        assert turns[i] == quarter


@pytest.mark.parametrize(("weight", "classes"), [(1.0, 0.0), (0.5, 0.5), (0.0, 2.0)])
def test_what_is_added_is_the_loss_of_turns_and_of_classes(weight, classes):
    how = Rotation(weight, classes, 0.5)
    net, episode = net_with(how), one(episodes())
    learner, progress = learner_of(net), torch.zeros(())
    torch.manual_seed(0)
    found = objective(how)(learner, episode, progress)
    torch.manual_seed(0)
    images, turns = turned(episode.query, 0.5)
    plain = objective(Rotation(0.0, 0.0, 1.0))(learner, episode, progress)
    (model,) = made().adapt(learner, episode.support, cross_entropy, 0)
    expected = plain.loss + classes * F.cross_entropy(model(images.x), images.y)
    if weight:
        expected = expected + weight * F.cross_entropy(net(PART, net("features", images.x).flatten(1)), turns)
    assert torch.allclose(found.loss, expected, atol=1e-12)
    assert (found.loss - plain.loss).abs() > 0.1
    assert torch.equal(found.scalars["loss"], plain.scalars["loss"])


def test_what_the_algorithm_adds_to_its_loss_counts_once():
    """With FEAT's own loss it was added for the turned images again."""
    how, algorithm = Rotation(0.0, 0.5, 0.5), replace(made(), auxiliary=1.0)
    net, episode, progress = net_with(how), one(episodes()), torch.zeros(())
    make = lambda outer: AuxiliaryLoss(algorithm, 0, cross_entropy, outer, predict_transductive)  # noqa: E731
    setting = ObjectiveContext(algorithm, 0, cross_entropy)
    torch.manual_seed(0)
    found = how.hooks().wrap_objective(make, setting)(cross_entropy)(learner_of(net), episode, progress)
    torch.manual_seed(0)
    images, _ = turned(episode.query, 0.5)
    (model,) = algorithm.adapt(learner_of(net), episode.support, cross_entropy, 0)
    plain = make(cross_entropy)(learner_of(net), episode, progress)
    assert torch.allclose(found.loss, plain.loss + 0.5 * F.cross_entropy(model(images.x), images.y), atol=1e-12)
    assert plain.loss - plain.scalars["loss"] > 0.01


def test_both_engines_agree(monkeypatch):
    how = Rotation(0.5, 0.5, 0.5)
    first = lambda like: torch.zeros_like(like) + torch.linspace(0, 1, like.shape[0])  # noqa: E731
    monkeypatch.setattr(rotation.torch, "rand_like", first)
    far, gradient = apart(objective(how), net_with(how), episodes())
    assert far < 1e-10
    assert gradient[f"{PART}.weight"].abs().max() > 0


@pytest.mark.parametrize(("key", "value"), [("weight", -1.0), ("classes", -1.0), ("share", 0.0)])
def test_a_value_out_of_range_is_refused(key, value):
    with pytest.raises(UserError, match=f"^reg.rotation.{key}="):
        Rotation(**{"weight": 1.0, "classes": 0.0, "share": 1.0, key: value})
