"""Heads: the k nearest neighbours' votes by hand, their gradients on both engines; one drawn anew for each task."""

import pytest
import torch

from metalab.algorithms.components.heads import KNNHead
from metalab.algorithms.gradient_based.anil import ANIL
from metalab.algorithms.gradient_based.boil import BOIL
from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.gradient_based.metacurvature import MetaCurvature
from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch
from metalab.engines.learn2learn import Learn2Learn, TaskLearner
from metalab.engines.vectorized import Vectorized
from tests.algorithms.made import WAY, episodes, far, net_of, objective, outer


def head(k: int, way: int = 3, shot: int = 4, size: int = 5) -> tuple[KNNHead, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    made, y = KNNHead(size, way, k).double(), torch.arange(way).repeat(shot)
    made.keys = torch.nn.Parameter(torch.randn(way * shot, size, dtype=torch.float64))
    made.register_buffer("votes", torch.eye(way, dtype=torch.float64)[y])
    return made, y, torch.randn(20, size, dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 3, 7, 12, 99])
def test_the_votes_are_those_counted_by_hand(k):
    made, y, x = head(k)
    logits = made(x)
    for row, image in zip(logits, x, strict=True):
        distance = [((image - key) ** 2).sum().item() for key in made.keys]
        nearest = sorted(range(12), key=distance.__getitem__)[:k]
        votes = [sum(torch.tensor(-distance[i]).exp().item() for i in nearest if y[i] == c) for c in range(3)]
        voted = [c for c in range(3) if votes[c]]
        assert row.argmax() == max(voted, key=votes.__getitem__)
        shares = row[voted].softmax(0)
        assert (shares - torch.tensor(votes)[voted] / sum(votes)).abs().max() < 1e-6
        for c in set(range(3)) - set(voted):  # its nearest alone, behind all that voted
            assert abs(row[c].item() + min(distance[i] for i in range(12) if y[i] == c)) < 1e-9


def test_every_class_has_a_gradient_though_it_has_no_vote():
    made, y, x = head(1)
    made.zero_grad()
    torch.nn.functional.cross_entropy(made(x[:1]), (made(x[:1]).argmax(1) + 1) % 3).backward()
    assert made.keys.grad is not None
    reached = made.keys.grad.abs().sum(1) > 0
    assert all(reached[y == c].sum() == 1 for c in range(3))


def knn(way: int) -> MAML:
    return MAML(way, 0.05, False, "knn", neighbours=3)


def test_both_engines_have_the_same_second_order_gradient():
    net = net_of(knn(WAY))
    theirs, want = outer(Learn2Learn(), objective(QueryLoss, knn(WAY), 2), net, episodes())
    mine, got = outer(Vectorized(None), objective(QueryLoss, knn(WAY), 2), net, episodes())
    assert far(got, want) < 1e-10
    assert torch.equal(mine.correct, theirs.correct)
    assert max(g.abs().max() for n, g in want.items() if n.startswith("body.")) > 1e-6


def test_the_inner_steps_move_the_keys_and_any_way_will_do():
    net = net_of(ANIL(WAY, 0.05, False, "knn", neighbours=3))
    x = torch.rand(4, *episodes().query.x.shape[2:], dtype=torch.float64)
    support = Batch(x, torch.arange(4), x[:0])
    start = TaskLearner(net, False)
    first, *_, last = ANIL(4, 0.05, False, "knn").adapt(start, support, cross_entropy, 3)  # type: ignore[arg-type]
    before, after = first.parameters(), last.parameters()  # type: ignore[attr-defined]
    assert torch.equal(before["head.keys"], start.features(x).flatten(1))
    assert not torch.equal(before["head.keys"], after["head.keys"])
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("body."))
    assert last(x).shape == (4, 4)


def test_no_neighbour_at_all_is_refused():
    with pytest.raises(UserError, match=r"algo\.neighbours=0: expected a number above 0"):
        MAML(5, 0.1, False, "knn", neighbours=0).parts(torch.nn.Identity(), 4)


@pytest.mark.parametrize("engine", [Learn2Learn(), Vectorized(None), Vectorized(1)], ids=str)
def test_a_random_head_is_drawn_anew_for_each_task_and_not_learned(engine):
    """Without inner steps the answers are the head's alone: the tasks are one, and their answers are not."""
    algorithm = MAML(WAY, 0.05, False, "random")
    net = net_of(algorithm)
    one = episodes()
    same = type(one)(*(type(batch)(*(field[:1].expand_as(field) for field in batch)) for batch in one))
    torch.manual_seed(0)
    result, gradient = outer(engine, objective(QueryLoss, algorithm, 1), net, same)
    assert result.loss.unique().numel() == len(result.loss)
    assert not any(g.any() for n, g in gradient.items() if n.startswith("head."))
    assert any(g.any() for n, g in gradient.items() if n.startswith("body."))
    torch.manual_seed(0)
    assert torch.equal(outer(engine, objective(QueryLoss, algorithm, 1), net, same)[0].loss, result.loss)


def test_a_random_head_has_xavier_weights_and_no_bias():
    start = TaskLearner(net_of(MAML(WAY, 0.05, False, "random")), False)
    [first] = MAML(50, 0.05, False, "random").adapt(start, episodes_of(50), cross_entropy, 0)
    head = first.parameters()  # type: ignore[attr-defined]
    weight, bound = head["head.weight"], (6 / (50 + head["head.weight"].shape[1])) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not head["head.bias"].any()


def episodes_of(way: int) -> Batch:
    x = torch.rand(way, *episodes().query.x.shape[2:], dtype=torch.float64)
    return Batch(x, torch.arange(way), x[:0])


@pytest.mark.parametrize("algorithm", [MAML, ANIL, BOIL, MetaCurvature])
def test_a_learned_head_may_start_normal_as_in_mamls_code(algorithm):
    torch.manual_seed(0)
    body = torch.nn.Conv2d(1, 64, 3)
    heads = [algorithm(40, 0.1, False, "learned", head_std=std).parts(body, 64)["head"] for std in (None, 1.0, 0.5)]
    xavier, normal, half = (head.weight.detach() for head in heads)
    assert xavier.abs().max() <= (6 / (64 + 40)) ** 0.5
    assert normal.std().item() == pytest.approx(1, abs=0.05)
    assert half.std().item() == pytest.approx(0.5, abs=0.025)
    assert normal.abs().max() > 2.5
    assert all(torch.equal(head.bias, torch.zeros(40)) for head in heads)
    with pytest.raises(UserError, match=r"algo.head_std=-1: expected a number above 0"):
        algorithm(40, 0.1, False, "learned", head_std=-1.0).parts(body, 64)
