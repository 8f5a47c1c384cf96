"""Siamese networks: hand-worked losses, learned and weighted distances, the nearest support."""

import re

import pytest
import torch
import torch.nn.functional as F

from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.algorithms.metric_based.siamese import Siamese
from metalab.algorithms.objectives.pairs import PairwiseLoss
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.core.errors import UserError
from metalab.training import train
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one

CHOICES = [
    ("contrastive", "euclidean"),
    ("contrastive", "learned"),
    ("cosine", "cosine"),
    ("verification", "weighted"),
    ("verification", "learned"),
]


def siamese(loss="contrastive", distance="euclidean", margin=None, balanced=False, way=WAY):
    return Siamese(way, loss, distance, margin, 6, balanced)  # type: ignore[arg-type]


SAME = torch.tensor([[True, False], [False, True], [False, False]])


def test_the_contrastive_loss_by_hand():
    """Embeddings on a line: 0, 3, 10 against 1 and 3.5, margin 2; the pairs of one class are at distances 1 and 0.5."""
    a, b = torch.tensor([[0.0], [3.0], [10.0]]), torch.tensor([[1.0], [3.5]])
    algorithm = siamese(margin=2.0)
    scores = algorithm.pair_scores(learner_of(net_of(algorithm)), a, b)
    torch.testing.assert_close(scores, -torch.tensor([[1.0, 3.5], [2.0, 0.5], [9.0, 6.5]]))
    assert algorithm.pair_loss()(scores, SAME).item() == pytest.approx((1.0 + 0.25) / (2 * 6))  # two classes: all >= 2
    algorithm = siamese(margin=4.0)  # two classes within 4: at 3.5 and 2
    assert algorithm.pair_loss()(scores, SAME).item() == pytest.approx((1 + 0.25 + 0.5**2 + 2**2) / (2 * 6))
    balanced = siamese(margin=4.0, balanced=True)  # means over 2 and over 4 pairs, half each
    assert balanced.pair_loss()(scores, SAME).item() == pytest.approx(((1 + 0.25) / 2 + (0.25 + 4) / 4) / 4)


def test_the_cosine_loss_is_torchs():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (3, 2))
    algorithm = siamese("cosine", "cosine", 0.1)
    mine = algorithm.pair_loss()(algorithm.pair_scores(learner_of(net_of(algorithm)), a, b), SAME)
    target = torch.where(SAME, 1, -1).flatten()
    theirs = F.cosine_embedding_loss(a.repeat_interleave(2, 0), b.repeat(3, 1), target, margin=0.1)
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-12)


def test_verification_is_cross_entropy_of_a_weighted_l1_distance():
    algorithm = siamese("verification", "weighted")
    net = net_of(algorithm)
    a, b = torch.randn(3, 4).double(), torch.randn(2, 4).double()
    scores = algorithm.pair_scores(learner_of(net), a, b)
    weight, bias = net.get_parameter("alike.weight")[0], net.get_parameter("alike.bias")[0]
    by_hand = torch.stack([torch.stack([(weight * (f - g).abs()).sum() + bias for g in b]) for f in a])
    assert torch.allclose(scores, by_hand, atol=1e-12)
    p = torch.sigmoid(by_hand)
    expected = -torch.where(SAME, p.log(), (1 - p).log()).mean()
    assert algorithm.pair_loss()(scores, SAME).item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("loss", ["contrastive", "verification"])
def test_a_learned_distance_is_symmetric_and_sees_both_embeddings(loss):
    algorithm = siamese(loss, "learned")
    learner = learner_of(net_of(algorithm))
    a, b = torch.randn(3, 4).double(), torch.randn(2, 4).double()
    scores = algorithm.pair_scores(learner, a, b)
    assert torch.allclose(scores, algorithm.pair_scores(learner, b, a).T, atol=1e-12)
    assert (scores - algorithm.pair_scores(learner, a + 1, b)).abs().max() > 1e-3
    assert (scores < 0).all() or loss == "verification"


@pytest.mark.parametrize(("loss", "distance"), CHOICES)
def test_a_query_is_of_the_class_of_the_support_most_alike(loss, distance):
    algorithm = siamese(loss, distance)
    net = net_of(algorithm)
    learner, (support, query) = learner_of(net), one(episodes(shot=3))
    (model,) = algorithm.adapt(learner, support, cross_entropy, 0)
    known, asked = (learner.features(x).flatten(1) for x in (support.x, query.x))
    nearest = support.y[algorithm.pair_scores(learner, asked, known).argmax(1)]
    assert torch.equal(model(query.x).argmax(1), nearest)
    assert model(query.x).shape == (len(query.y), WAY)


@pytest.mark.parametrize(("loss", "distance"), CHOICES)
def test_both_engines_agree(loss, distance):
    algorithm = siamese(loss, distance, balanced=True)
    net = net_of(algorithm)
    far, gradient = apart(
        PairwiseLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive), net, episodes()
    )
    assert far < 1e-10
    assert all(g.abs().max() > 0 for n, g in gradient.items() if not n.endswith(".0.bias"))


def test_the_loss_of_pairs_falls_where_those_of_one_class_come_closer():
    algorithm = siamese(balanced=True)
    objective = PairwiseLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive)
    net, batch = net_of(algorithm), episodes()
    right = objective(learner_of(net), one(batch), torch.zeros(()))  # type: ignore[arg-type]
    swapped = one(batch)._replace(query=one(batch).query._replace(y=(one(batch).query.y + 1) % WAY))
    wrong = objective(learner_of(net), swapped, torch.zeros(()))  # type: ignore[arg-type]
    assert right.loss < wrong.loss


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("algo.loss=cosine",),
            "algo.loss=cosine does not go with algo.distance=euclidean; it takes algo.distance=cosine",
        ),
        (
            ("algo.distance=weighted",),
            "algo.loss=contrastive does not go with algo.distance=weighted; it takes algo.distance=euclidean or "
            "algo.distance=learned",
        ),
        (
            ("algo.margin=0",),
            "algo.margin=0: algo.loss=contrastive takes a number above 0 and below inf, as algo.margin=5",
        ),
        (
            ("algo.loss=cosine", "algo.distance=cosine", "algo.margin=2"),
            "algo.margin=2: algo.loss=cosine takes a number above -1 and below 1, as algo.margin=0.5",
        ),
        (("algo.hidden=0",), "algo.hidden=0: expected 1 unit or more"),
    ],
)
def test_what_does_not_go_together_is_refused(words, message, small, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        train.run(small("algo=siamese", *words), tmp_path)


def test_pairs_take_an_algorithm_that_compares_pairs_and_no_loss_of_classes():
    with pytest.raises(UserError, match="takes an algorithm that compares pairs"):
        PairwiseLoss(ProtoNet(3), 0, cross_entropy, cross_entropy, predict_transductive)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="leave it out of reg"):
        PairwiseLoss(
            siamese(), 0, cross_entropy, lambda model, batch: cross_entropy(model, batch), predict_transductive
        )
