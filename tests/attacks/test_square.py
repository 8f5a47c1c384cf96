"""Square attack: its windows, its L2 step by hand, and that it finds more with a larger eps and with more queries."""

from itertools import pairwise

import pytest
import torch
import torchattacks
from torch import nn
from torch.func import vmap

from metalab.attacks.autoattack import AutoAttack
from metalab.attacks.base import l2_norm
from metalab.attacks.square import Square
from metalab.attacks.square_l2 import moved, profile, tiled
from metalab.attacks.square_windows import inside, window
from tests.attacks.test_attacks import left


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 12])
def test_the_profile_is_that_of_torchattacks(side):
    theirs, ours = torchattacks.Square(nn.Linear(1, 1), norm="L2").eta(side), profile(side, torch.zeros(1))
    assert min((theirs - ours).abs().max(), (theirs - ours.T).abs().max()) < 1e-6


def test_the_profile_by_hand():
    """Three by two above and below the middle: 1 + 1/4 there, 1/4 around it; each half has half of the energy."""
    upper, lower = torch.tensor([0.25, 1.25, 0.25]), torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    expected = torch.cat([upper[None] / upper.norm(), -lower / lower.norm()]) / 2**0.5
    torch.testing.assert_close(profile(3, torch.zeros(1)), expected)


def test_windows_lie_anywhere_and_have_their_size():
    torch.manual_seed(0)
    x = torch.zeros(3000, 1, 6, 7)
    masks = inside(window(x, 4), 4)
    assert (masks.flatten(1).sum(1) == 16).all()
    places = masks.flatten(1).unique(dim=0, return_counts=True)[1]
    assert len(places) == 3 * 4
    assert places.min() > 3000 / 12 * 0.75
    assert inside(window(x, 7), 7).flatten(1).sum(1).unique().tolist() == [42]  # no more than there is


@pytest.mark.parametrize("shape", [(5, 1, 16, 16), (5, 3, 12, 9), (5, 1, 3, 3), (5, 2, 1, 1)])
def test_it_begins_with_all_of_eps_in_a_grid(shape):
    torch.manual_seed(0)
    x = torch.full(shape, 0.5)
    begun = tiled(x, 0.2) - x
    torch.testing.assert_close(l2_norm(begun), torch.full((5,), 0.2))
    if shape[2] == 16:  # 5 by 5 tiles of 3 by 3, and nothing in what is left over
        assert not begun[:, :, 15].any()
        energy = begun[:, :, :15, :15].square().unfold(2, 3, 3).unfold(3, 3, 3).sum((4, 5))
        torch.testing.assert_close(energy, torch.full_like(energy, 0.04 / 25))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_step_moves_the_change_of_one_window_into_another(channels):
    torch.manual_seed(0)
    x = torch.full((40, channels, 12, 12), 0.5, dtype=torch.float64)
    best = x + 0.01 * torch.randn_like(x)
    eps, side = 2 * l2_norm(best - x).max().item(), 5
    before, after = best - x, moved(x, best, eps, side) - x
    torch.testing.assert_close(l2_norm(after), torch.full((40,), eps).double())  # what was unused is used
    same = (before - after).abs() < 1e-12
    emptied = (after == 0).all(1, keepdim=True)
    changed = ~same & ~emptied
    assert ((changed.any(1).flatten(1).sum(1) == 25) | (changed.any(1).flatten(1).sum(1) == 24)).all()
    assert (emptied.flatten(1).sum(1) <= 25).all()
    assert emptied.flatten(1).any(1).float().mean() > 0.9  # where the windows do not coincide
    unused = eps**2 - before.square().sum((1, 2, 3))
    energy = (before.square() * ~same).sum((2, 3)) + unused[:, None] / channels  # each channel keeps its own
    torch.testing.assert_close((after.square() * ~same).sum((2, 3)), energy)


def test_a_step_turns_the_window_towards_a_profile():
    """With one window of the whole image nothing is emptied, and what was there counts as much as the profile."""
    torch.manual_seed(0)
    x = torch.full((64, 1, 5, 5), 0.5, dtype=torch.float64)
    best = tiled(x, 0.1)
    was, now, eta = ((best - x) / 0.1)[:, 0], ((moved(x, best, 0.1, 5) - x) / 0.1)[:, 0], profile(5, x)
    either = [sign * shape for sign in (1, -1) for shape in (eta, eta.T)]
    sums = [(was + shape) / (was + shape).flatten(1).norm(dim=1)[:, None, None] for shape in either]
    distance = torch.stack([(now - there).abs().amax((1, 2)) for there in sums])
    assert distance.amin(0).max() < 1e-9
    assert set(distance.argmin(0).tolist()) == {0, 1, 2, 3}  # both signs, upright and across


def test_an_image_at_its_ends_stays_an_image_and_in_the_ball():
    torch.manual_seed(0)
    x = torch.randint(0, 2, (20, 3, 10, 10)).float()
    best = tiled(x, 2.0)
    for side in (9, 5, 3, 3):
        best = moved(x, best, 2.0, side)
        assert l2_norm(best - x).max() <= 2.0 + 1e-5
        assert best.min() >= 0
        assert best.max() <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_first_square_covers_the_share_however_few_queries_there_are(norm):
    x = torch.zeros(1, 1, 20, 20)
    for queries in (2, 10, 5000):
        attack = Square(0.1, norm, queries, 0.64)
        sides = [attack._side(x, query) for query in range(1, queries)]
        assert sides[0] == (16 if norm == "linf" else 17)
        assert sides == sorted(sides, reverse=True)
    assert sides[-1] == (1 if norm == "linf" else 3)


@pytest.mark.slow
def test_l2_accuracy_falls_with_eps_and_with_queries(trained):
    by_eps = [left(Square(eps, "l2", 200, 0.8), trained) for eps in (0.0, 0.3, 1.0, 3.0)]
    assert all(b <= a for a, b in pairwise(by_eps)), by_eps
    assert by_eps[-1] < by_eps[0] - 0.7, by_eps
    by_queries = [left(Square(1.0, "l2", queries, 0.8), trained) for queries in (1, 10, 100, 400)]
    assert all(b <= a for a, b in pairwise(by_queries)), by_queries
    assert by_queries[-1] < by_queries[0] - 0.2, by_queries


def test_each_task_draws_for_itself_under_vmap_and_stays_in_the_ball(trained):
    net, (x, y, _) = trained
    attack = Square(0.7, "l2", 30, 0.8)
    torch.manual_seed(0)
    batched = vmap(lambda a, b: attack(net, a, b), randomness="different")
    together = batched(x.expand(3, -1, -1, -1, -1), y.expand(3, -1))
    assert (l2_norm((together - x).flatten(0, 1)) <= 0.7 + 1e-5).all()
    assert not torch.equal(together[0], together[1])
    kept = [(net(images).argmax(1) == y).float().mean().item() for images in together]
    alone = (net(attack(net, x, y)).argmax(1) == y).float().mean().item()
    assert kept == pytest.approx([alone] * 3, abs=0.15)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_auto_ends_with_square_under_both_norms(norm):
    kinds = [type(part).__name__ for part in AutoAttack(0.1, norm, 5, 1, 2, 20).parts()]
    assert kinds == ["APGD", "APGD", "APGD", "FAB", "Square"]
    assert "Square" not in [type(part).__name__ for part in AutoAttack(0.1, norm, 5, 1, 2, 0).parts()]
