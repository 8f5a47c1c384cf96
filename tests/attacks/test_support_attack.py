"""Attacks on the support through the adaptation: beside a plain PGD written out here, and on every algorithm."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.algorithms.objectives.prediction import PREDICTIONS, cross_entropy
from metalab.algorithms.objectives.support_attack import SupportAttack
from metalab.attacks.apgd import APGD
from metalab.attacks.autoattack import AutoAttack
from metalab.attacks.base import Attack, gradient, l2_norm, mean_over_queries
from metalab.attacks.losses import chosen
from metalab.attacks.pgd import PGD, TargetedPGD
from metalab.attacks.square import Square
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Batch, Episode, Learner, Objective, TaskResult
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.engines.vectorized import Vectorized
from metalab.evaluation.measure import outcome
from metalab.evaluation.robust_objective import RobustObjective
from tests.attacks.nets import CASES, TASKS, WAY, episodes, net_of
from tests.engines import test_parity as every
from tests.quick import among, quick

EPS, STEP, STEPS, LR = 0.3, 0.1, 5, 0.4
PLAIN = PGD(EPS, "linf", STEPS, STEP, False, 1, "cross_entropy")
ENGINES = pytest.mark.parametrize("engine", [Learn2Learn(), Vectorized(None)], ids=["loop", "vmap"])
Weights = dict[str, Tensor]


def features(x: Tensor, weights: Weights, support: int) -> Tensor:
    """Return the features of the net of tests.attacks.nets, normalized by the statistics of the first images."""
    for block in range(4):
        kernel, bias, gain, shift = (weights[f"body.{block}.{n}"] for n in ("0.weight", "0.bias", "1.weight", "1.bias"))
        x = F.conv2d(x, kernel, bias, padding=1)
        var, mean = torch.var_mean(x[:support], dim=(0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) / (var + 1e-5).sqrt() * gain.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
        x = F.max_pool2d(x, 2).relu()
    return x.flatten(1)


def of_protonet(weights: Weights, episode: Episode) -> Callable[[Tensor], Tensor]:
    """Return support images -> logits of the queries by the distance to each class's mean, eq. 1 and 2 there."""
    (_, y, _), query = episode

    def logits(x: Tensor) -> Tensor:
        both = features(torch.cat([x, query.x]), weights, len(x))
        prototypes = torch.stack([both[: len(x)][y == k].mean(0) for k in range(WAY)])
        return -torch.cdist(both[len(x) :], prototypes).square()

    return logits


def of_maml(weights: Weights, episode: Episode) -> Callable[[Tensor], Tensor]:
    """Return support images -> logits of the queries after one inner step on all of the net, eq. 1 there."""
    (_, y, _), query = episode

    def logits(x: Tensor) -> Tensor:
        def out(of: Tensor, theta: Weights) -> Tensor:
            return features(of, theta, len(x)) @ theta["head.weight"].T + theta["head.bias"]

        theta = {n: w.detach().requires_grad_() for n, w in weights.items()}
        slopes = torch.autograd.grad(F.cross_entropy(out(x, theta), y), list(theta.values()), create_graph=True)
        moved = {n: w - LR * g for (n, w), g in zip(theta.items(), slopes, strict=True)}
        return out(torch.cat([x, query.x]), moved)[len(x) :]

    return logits


ORACLES = {"protonet": (of_protonet, CASES["protonet"][0]), "maml": (of_maml, CASES["maml"][0])}


def written_out(logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
    """Return every support that PGD comes to on the mean loss of the queries, the clean one first."""
    seen = [x]
    for _ in range(STEPS):
        at = seen[-1].detach().requires_grad_()
        with torch.enable_grad():
            [slope] = torch.autograd.grad(F.cross_entropy(logits(at), y), at)
        moved = at.detach() + STEP * slope.sign()
        seen.append(torch.minimum(torch.maximum(moved, x - EPS), x + EPS).clamp(0, 1))
    return seen


def poison(algorithm: Algorithm, bn: str, steps: int = 1) -> SupportAttack:
    return SupportAttack(algorithm, steps, cross_entropy, PREDICTIONS[bn], True)


def shown(make: Callable[[Learner, Episode], dict[str, Tensor]]) -> Objective:
    """Return an objective that shows what is made of an episode."""

    def objective(learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        return TaskResult(progress, episode.query.y == 0, make(learner, episode), {})

    return objective


@ENGINES
@pytest.mark.parametrize("case", ORACLES)
def test_pgd_through_the_adaptation_is_the_plain_one_on_the_query_loss(case, engine):
    """The same perturbation at every step, and the same queries right at the support that leaves the fewest."""
    oracle, algorithm = ORACLES[case]
    net = net_of(algorithm)

    def make(learner: Learner, episode: Episode) -> dict[str, Tensor]:
        x, y = episode.support.x, episode.query.y
        tries = PLAIN.iterates(poison(algorithm, "support").answers(learner, episode), x, y, mean_over_queries(len(x)))
        return {str(i): tried.x for i, tried in enumerate(tries)}

    found = outcome(engine, shown(make), net, episodes(), "support").scalars
    attacked = RobustObjective(algorithm, 1, cross_entropy, PREDICTIONS["support"], {"pgd": PLAIN}, "support")
    right = outcome(engine, attacked, net, episodes(), "support").scalars["right/pgd"]
    weights, fell = {n: p.detach() for n, p in net.named_parameters()}, 0
    for t in range(TASKS):
        episode = task(episodes(), t)
        logits, y = oracle(weights, episode), episode.query.y
        expected = written_out(logits, episode.support.x, y)
        assert all((found[str(i)][t] - x).abs().max() < 1e-12 for i, x in enumerate(expected))
        answers = [logits(x).argmax(1) == y for x in expected]
        fewest = min(int(each.sum()) for each in answers)
        last = [each for each in answers if each.sum() == fewest][-1]
        assert torch.equal(right[t], last)
        fell += int(answers[0].sum()) - fewest
    assert fell > 0


def test_a_poison_hurts_more_than_the_surrogate():
    """What was reported as the worst case: each support's own loss before the first inner step."""
    algorithm, net = CASES["protonet"][0], net_of(CASES["protonet"][0])
    left = {}
    for support in ("adapt", "own_loss"):
        attack = {"pgd": PGD(0.05, "linf", 8, None, False, 1, "cross_entropy")}
        objective = RobustObjective(
            algorithm, 0, cross_entropy, PREDICTIONS["support"], attack, "support", support=support
        )
        left[support] = int(outcome(Learn2Learn(), objective, net, episodes(), "support").scalars["right/pgd"].sum())
    assert left["adapt"] < left["own_loss"]


@pytest.mark.parametrize("algo", quick(every.ALGORITHMS, among("maml", "anil", "protonet", "r2d2", "matching")))
def test_the_slope_of_the_support_is_that_of_finite_differences_on_both_engines(algo, small):
    """Of first-order methods, too, whose inner gradients are constants in training: the attack would be blind."""
    try:
        found = every.recipes(small, algo, 16)
    except UserError as error:
        pytest.skip(f"{algo} does not take these tiny tasks: {error}")
    for r in found:
        net = every.net_of(r, every.SMALL["conv4"], 16)
        drawn = r.validation()(0)
        batch = Episode(*(Batch(b.x[:2].double(), b.y[:2], b.unlabelled[:2].double()) for b in drawn))
        steps = min(r.test_algo.steps, 2)
        toward = torch.randn(batch.support.x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        # few epochs of a head that is fitted; no changed copies, whose pixels are cut to 0..1, where these images are
        other = {"epochs": 5, "probability": 0.0, "crop": 0.0, "flip": 0.0}
        changes = {key: value for key, value in other.items() if key in vars(r.test_algorithm)}
        algorithm = replace(cast(Any, r.test_algorithm), **changes)

        def make(learner: Learner, episode: Episode, algorithm=algorithm, steps=steps) -> dict[str, Tensor]:
            x, y = episode.support.x, episode.query.y
            answers = poison(algorithm, "support", steps).answers(learner, episode)
            value = mean_over_queries(len(x))(chosen("cross_entropy", y))
            return {"slope": gradient(answers, x, value)[0], "loss": value(answers(x)).sum()}

        slopes, theirs = (
            outcome(e, shown(make), net, batch, "support").scalars["slope"] for e in (Learn2Learn(), Vectorized(None))
        )
        h = (
            1e-8 if algo in ("reptile", "pmf", "clip_lora") else 1e-6
        )  # Adam divides by gradients near 0, and bends sharply there
        ends = [
            outcome(
                Learn2Learn(),
                shown(make),
                net,
                batch._replace(support=batch.support._replace(x=batch.support.x + sign * h * toward)),
                "support",
            ).scalars["loss"]
            for sign in (1, -1)
        ]
        along = (slopes * toward).flatten(1).sum(1)
        assert (slopes - theirs).abs().max() < 1e-9 * max(1, slopes.abs().max().item())
        assert along.abs().min() > 1e-8
        torch.testing.assert_close(along, (ends[0] - ends[1]) / (2 * h), rtol=1e-4, atol=1e-7)


KINDS: dict[str, Attack] = {
    "pgd_l2": PGD(0.8, "l2", 6, None, True, 2, "cross_entropy"),
    "targeted": TargetedPGD(EPS, "linf", 6, None, True, 1, "margin", 9),
    "apgd": APGD(EPS, "linf", 12, 1, "cross_entropy", 0),
    "apgd_targeted": APGD(EPS, "linf", 12, 1, "dlr", 2),
    "auto": AutoAttack(EPS, "linf", 6, 1, 2, 20),
    "square": Square(EPS, "linf", 60, 0.8),
    "square_l2": Square(0.8, "l2", 60, 0.8),
}


@pytest.mark.slow
@ENGINES
@pytest.mark.parametrize("name", quick(KINDS, among("pgd_l2", "apgd", "square")))
def test_every_attack_moves_the_support_as_one_and_stays_in_the_ball(name, engine):
    algorithm, net, size = CASES["protonet"][0], net_of(CASES["protonet"][0]), EPS
    attack = KINDS[name]

    def make(learner: Learner, episode: Episode) -> dict[str, Tensor]:
        x, y = episode.support.x, episode.query.y
        answers = poison(algorithm, "support").answers(learner, episode)
        losses = [cross_entropy(answers, Batch(x, y, x[:0]))]
        far = []
        for tried in attack.iterates(answers, x, y, mean_over_queries(len(x))):
            losses.append(cross_entropy(answers, Batch(tried.x, y, x[:0])))
            far.append(l2_norm(tried.x - x).max() if "l2" in name else (tried.x - x).abs().max())
            far.append((tried.x - tried.x.clamp(0, 1)).abs().max())  # 0
        return {"losses": torch.stack(losses), "far": torch.stack(far)}

    torch.manual_seed(0)
    found = outcome(engine, shown(make), net, episodes(), "support").scalars
    size = 0.8 if "l2" in name else EPS
    assert found["far"][:, ::2].max() <= size + 1e-9
    assert found["far"][:, ::2].max() > 0.9 * size
    assert found["far"][:, 1::2].max() == 0
    assert (found["losses"].amax(1) > found["losses"][:, 0] + 0.05).all()


def test_apgd_halves_the_step_of_the_whole_support():
    """All images of a support rise or do not rise together: one size of step for all, and one best point."""
    algorithm = CASES["protonet"][0]
    learner, episode = TaskLearner(net_of(algorithm), False), task(episodes(), 0)
    x, y = episode.support.x, episode.query.y
    value = mean_over_queries(len(x))(chosen("cross_entropy", y))
    with torch.no_grad():
        answers = poison(algorithm, "support").answers(learner, episode)  # type: ignore[arg-type]
        assert value(answers(x)).unique().numel() == 1
        tries = list(APGD(EPS, "linf", 12, 1, "cross_entropy", 0).iterates(answers, x, y, mean_over_queries(len(x))))
        heights = [cross_entropy(answers, Batch(tried.x, y, x[:0])) for tried in tries]
    assert heights[-1] == max(heights[:-2])  # the last is the best point, of all images at once


def test_a_gradient_that_is_no_number_moves_nothing():
    """A step along it would leave no image, and a net is wrong about what is no image."""
    x = torch.rand(3, 1, 4, 4)

    def model(at: Tensor) -> Tensor:
        return torch.stack([(at - at).sqrt().flatten(1).sum(1), at.flatten(1).sum(1)], 1)  # sqrt at 0: inf * 0

    slope, tried = gradient(model, x, chosen("cross_entropy", torch.tensor([0, 1, 0])))
    assert not slope.any()
    assert tried.dead is not None
    assert tried.dead.all()
    *_, last = PLAIN.iterates(model, x, torch.tensor([0, 1, 0]))
    assert torch.equal(last.x, x)
