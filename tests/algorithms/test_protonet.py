"""ProtoNet: squared distances, unlabelled images by soft k-means, and its oracle."""

import re

import pytest
import torch
from easyfsl.methods import PrototypicalNetworks
from torch import nn

from metalab.algorithms.metric_based import protonet
from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.algorithms.objectives.losses import binary_cross_entropy
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch
from metalab.training import train
from tests.algorithms.metric_cases import WAY, apart, episodes, net_of, one


class Plain:
    """A net whose features are the image's numbers."""

    def features(self, x):
        return x


def line(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)[:, None, None, None]


def test_the_distance_is_squared_where_easyfsls_is_not():
    support, query = one(episodes())
    theirs = PrototypicalNetworks(nn.Flatten())
    theirs.process_support_set(support.x, support.y)
    (model,) = ProtoNet(WAY).adapt(Plain(), support, cross_entropy, 0)  # type: ignore[arg-type]
    assert torch.allclose(model(query.x), -theirs(query.x).square(), atol=1e-10)
    assert (model(query.x) - theirs(query.x)).abs().max() > 1


def test_a_temperature_divides_the_distances_and_may_be_learned():
    support, query = one(episodes())
    (plain,) = ProtoNet(WAY).adapt(Plain(), support, cross_entropy, 0)  # type: ignore[arg-type]
    (cold,) = ProtoNet(WAY, temperature=0.25).adapt(Plain(), support, cross_entropy, 0)  # type: ignore[arg-type]
    assert torch.allclose(cold(query.x), 4 * plain(query.x))
    algorithm = ProtoNet(WAY, temperature=0.25, learned_temperature=True)
    assert algorithm.parts(nn.Identity(), 4)["sharpness"].get_parameter("log").exp().item() == pytest.approx(0.25)
    far, gradient = apart(
        QueryLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive), net_of(algorithm), episodes()
    )
    assert far < 1e-10
    assert gradient["sharpness.log"].abs() > 0


def test_soft_k_means_by_hand():
    """Supports at 0 and 4; one image of no label at 1, whose share of class 0 is p = 1 / (1 + e^(1 - 9))."""
    support = Batch(line(0.0, 4.0), torch.tensor([0, 1]), line(1.0))
    (model,) = ProtoNet(2, refine=1).adapt(Plain(), support, cross_entropy, 0)  # type: ignore[arg-type]
    p = 1 / (1 + torch.e**-8)
    first, second = p / (1 + p), (4 + (1 - p)) / (1 + (1 - p))
    at = line(0.0)
    assert torch.allclose(model(at), -torch.tensor([[first**2, second**2]]).double(), atol=1e-12)
    again = next(ProtoNet(2, refine=2).adapt(Plain(), support, cross_entropy, 0))(at)  # type: ignore[arg-type]
    a, b = (1 - first) ** 2, (1 - second) ** 2
    p = 1 / (1 + torch.e ** (a - b))
    expected = -torch.tensor([[(p / (1 + p)) ** 2, ((4 + 1 - p) / (2 - p)) ** 2]]).double()
    assert torch.allclose(again, expected, atol=1e-12)


def test_without_unlabelled_images_or_steps_nothing_is_refined():
    plain, beside = one(episodes()), one(episodes(unlabelled=4))
    for support, refine in ((plain.support, 3), (beside.support, 0)):
        (model,) = ProtoNet(WAY, refine).adapt(Plain(), support, cross_entropy, 0)  # type: ignore[arg-type]
        (expected,) = ProtoNet(WAY, 0).adapt(Plain(), support._replace(unlabelled=support.x[:0]), cross_entropy, 0)  # type: ignore[arg-type]
        assert torch.equal(model(plain.query.x), expected(plain.query.x))


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy])
def test_both_engines_agree_with_unlabelled_images(loss):
    algorithm = ProtoNet(WAY, 2)
    net = net_of(algorithm)
    far, _ = apart(QueryLoss(algorithm, 0, cross_entropy, loss, predict_transductive), net, episodes(unlabelled=4))
    assert far < 1e-10


def test_unlabelled_images_of_the_sampler_arrive(small, tmp_path, monkeypatch):
    seen = []
    real = protonet.refined_means
    monkeypatch.setattr(protonet, "refined_means", lambda *given: (seen.append(len(given[3])), real(*given))[1])
    train.run(small("algo=protonet", "task.unlabelled=2", "train.steps=1", "train.val_every=1"), tmp_path)
    assert seen
    assert set(seen) == {2 * 5}


def test_a_value_out_of_range_is_refused(small, tmp_path):
    with pytest.raises(UserError, match=re.escape("algo.refine=-1: expected 0 steps or more")):
        train.run(small("algo=protonet", "algo.refine=-1"), tmp_path)
