"""Attacks on a net that was trained a little: the ball, zero, monotony, masking, and the oracles in test_oracles."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from metalab.attacks.apgd import APGD, checkpoints
from metalab.attacks.autoattack import AutoAttack
from metalab.attacks.base import Attack, Norm, l2_norm, project, random_in_ball, steepest_direction
from metalab.attacks.fab import FAB
from metalab.attacks.fgsm import FGSM
from metalab.attacks.pgd import PGD, TargetedPGD
from metalab.attacks.square import Square
from metalab.core.interfaces import Batch
from metalab.evaluation.robust_objective import robust_correct

EPS = 24 / 255


def make(eps: float, norm: Norm = "linf") -> dict[str, Attack]:
    return {
        "fgsm": FGSM(eps, norm, None, False, "cross_entropy"),
        "fgsm_rs": FGSM(eps, norm, None, True, "cross_entropy"),
        "pgd": PGD(eps, norm, 10, None, True, 2, "cross_entropy"),
        "pgd_margin": PGD(eps, norm, 10, None, False, 1, "margin"),
        "targeted": TargetedPGD(eps, norm, 10, None, True, 1, "cross_entropy", 9),
        "apgd": APGD(eps, norm, 12, 1, "cross_entropy", 0),
        "apgd_targeted": APGD(eps, norm, 12, 1, "dlr", 3),
        "fab": FAB(eps, norm, 12, 2, 9),
        "auto": AutoAttack(eps, norm, 5, 1, 2, 20),
        "square": Square(eps, norm, 60, 0.8),
    }


def left(attack: Attack, trained: tuple[nn.Module, Batch]) -> float:
    """The share of images that the net still gets right."""
    net, batch = trained
    torch.manual_seed(0)
    return (robust_correct(attack, net, batch, []) & (net(batch.x).argmax(1) == batch.y)).float().mean().item()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", make(0))
def test_every_try_is_in_the_ball_and_an_image(name, norm, trained):
    net, (x, y, _) = trained
    eps = EPS if norm == "linf" else 1.5
    seen, moved = 0, 0.0
    for tried in make(eps, norm)[name].iterates(net, x, y):
        delta = tried.x - x
        size = delta.abs().flatten(1).amax(1) if norm == "linf" else l2_norm(delta)
        assert size.max() <= eps + 1e-6
        assert tried.x.min() >= 0
        assert tried.x.max() <= 1
        seen, moved = seen + 1, max(moved, size.max().item())
        if tried.logits is not None:
            torch.testing.assert_close(tried.logits, net(tried.x))  # of these very images
    assert seen >= 2
    assert moved > (0.9 * eps if name != "fab" else 0)  # and it uses the room it has; FAB wants the least


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", make(0))
def test_eps_0_is_clean_exactly(name, norm, trained):
    net, (x, y, _) = trained
    assert all(torch.equal(tried.x, x) for tried in make(0.0, norm)[name].iterates(net, x, y))


def test_accuracy_falls_with_eps_and_with_steps(trained):
    for name in ("fgsm", "pgd", "apgd", "fab", "square"):
        by_eps = [left(make(eps)[name], trained) for eps in (0.0, 0.03, 0.1, 0.3)]
        assert all(b <= a + 0.01 for a, b in pairwise(by_eps)), (name, by_eps)
        assert by_eps[-1] < by_eps[0] - 0.7, name
    by_steps = [left(PGD(0.1, "linf", n, 0.01, False, 1, "cross_entropy"), trained) for n in (1, 3, 10, 20)]
    assert all(b <= a + 0.01 for a, b in pairwise(by_steps))
    assert by_steps[-1] < by_steps[0] - 0.1


def test_gradients_are_not_masked(trained):
    """PGD beats FGSM, the black box beats PGD by no more than a point, unbounded eps reaches 0."""
    rates = {name: left(attack, trained) for name, attack in make(0.1).items()}
    assert rates["pgd"] <= rates["fgsm"]
    assert rates["square"] >= rates["pgd"] - 0.01
    assert rates["apgd"] <= rates["pgd"] + 0.04
    assert rates["fab"] <= rates["pgd"] + 0.04
    assert left(PGD(1.0, "linf", 10, None, True, 1, "cross_entropy"), trained) == 0


def test_the_weights_are_constants_while_an_attack_runs(trained):
    net, (x, y, _) = trained
    for name, attack in make(EPS).items():
        for tried in attack.iterates(net, x, y):
            assert not tried.x.requires_grad, name
        assert not attack(net, x, y).requires_grad


def test_the_parts_of_auto_get_the_images_that_are_left_and_fool_as_many(trained):
    net, batch = trained
    asked: list[int] = []

    def counted(images: Tensor) -> Tensor:
        asked.append(len(images))
        return net(images)

    whole = [robust_correct(AutoAttack(0.06, "linf", 10, 1, 4, 50), net, batch, [])]
    dead: list[Tensor] = []
    whole.append(robust_correct(AutoAttack(0.06, "linf", 10, 1, 4, 50), counted, batch, dead, drop=True))
    assert 0 < whole[1].sum() < len(batch.y)
    assert (whole[0] != whole[1]).sum() <= 1  # their random starts differ
    assert asked == sorted(asked, reverse=True)
    assert asked[0] == len(batch.y)
    assert asked[-1] < asked[0]
    assert not robust_correct(
        AutoAttack(1.0, "linf", 10, 1, 4, 50), net, batch, [], drop=True
    ).any()  # none left for the last


def test_pgd_takes_as_many_passes_as_it_has_steps(trained):
    net, (x, y, _) = trained
    calls = []

    def counted(images: Tensor) -> Tensor:
        calls.append(len(images))
        return net(images)

    PGD(EPS, "linf", 7, None, True, 1, "cross_entropy")(counted, x, y)
    assert len(calls) == 7


@pytest.mark.parametrize("name", make(0))
def test_an_attack_gives_each_task_under_vmap_what_it_gives_alone(name, trained):
    net, (x, y, _) = trained
    if name in ("fgsm", "pgd_margin"):  # no random numbers
        attack = make(EPS)[name]
        together = vmap(lambda a, b: attack(net, a, b))(x.unflatten(0, (3, -1)), y.unflatten(0, (3, -1)))
        torch.testing.assert_close(together.flatten(0, 1), attack(net, x, y), rtol=0, atol=1e-6)
    else:
        batched = vmap(lambda a, b: make(EPS)[name](net, a, b), randomness="different")
        moved = batched(x[:10].expand(2, -1, -1, -1, -1), y[:10].expand(2, -1)) - x[:10]
        assert moved.abs().max() <= EPS + 1e-6
        assert not torch.equal(moved[0], moved[1])  # each task draws for itself


def test_random_starts_fill_the_ball():
    torch.manual_seed(0)
    x = torch.full((4000, 1, 2, 2), 0.5)
    radius = l2_norm(random_in_ball(x, 0.3, "l2") - x) / 0.3
    assert radius.max() <= 1 + 1e-5
    assert (radius < 0.5).float().mean() == pytest.approx(0.5**4, abs=0.015)  # the share of the volume
    delta = random_in_ball(x, 0.3, "linf") - x
    assert delta.std() == pytest.approx(0.3 / 3**0.5, rel=0.03)
    assert random_in_ball(torch.zeros(9, 1, 2, 2), 0.3, "linf").min() == 0  # clamped: it stays an image


def test_l2_steps_have_length_1_however_small_the_gradient():
    tiny_gradient = torch.tensor([3e-25, 4e-25, 0.0, 0.0]).reshape(1, 1, 2, 2)
    torch.testing.assert_close(steepest_direction(tiny_gradient, "l2").flatten(), torch.tensor([0.6, 0.8, 0.0, 0.0]))
    assert not steepest_direction(torch.zeros(1, 1, 2, 2), "l2").any()
    x = torch.full((1, 1, 2, 2), 0.5)
    moved = project(x, x + 1, 0.2, "l2")
    assert l2_norm(moved - x).item() == pytest.approx(0.2)


def test_apgd_checks_after_the_papers_shares_of_the_steps():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
