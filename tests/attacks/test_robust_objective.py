"""What robust means: which model is attacked, and which images count."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest
import torch

from metalab.algorithms.objectives.prediction import PREDICTIONS, cross_entropy
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.algorithms.objectives.support_attack import SupportAttack
from metalab.attacks.base import Iterate, Reduction, no_reduction
from metalab.attacks.fab import FAB
from metalab.attacks.fgsm import FGSM
from metalab.attacks.pgd import PGD
from metalab.attacks.square import Square
from metalab.core.interfaces import Batch, Episode, Model
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.engines.vectorized import Vectorized
from metalab.evaluation.measure import outcome
from metalab.evaluation.robust_objective import RobustObjective
from metalab.models.layers import running_statistics
from metalab.regularizers.adversarial import attacked_loss
from tests.attacks.nets import CASES, episodes, net_of
from tests.quick import among, quick


def robust(case: str, bn: str, **given) -> RobustObjective:
    algorithm, _, steps = CASES[case]
    attacks = {"pgd": PGD(0.1, "linf", 3, None, False, 1, "cross_entropy"), "f": FGSM(0.1, "l2", None, False, "margin")}
    on, support = given.get("on", "query"), given.get("support", "adapt")
    return RobustObjective(algorithm, steps, cross_entropy, PREDICTIONS[bn], attacks, on, support=support)


@pytest.mark.parametrize(("on", "support"), [("query", "adapt"), *product(("support", "both"), ("adapt", "own_loss"))])
@pytest.mark.parametrize("case", quick(["maml", "anil", "reptile", "protonet"], among("anil", "protonet")))
@pytest.mark.parametrize("bn", ["support", "running"])
def test_both_engines_find_the_same(case, bn, on, support):
    objective, net = robust(case, bn, on=on, support=support), net_of(CASES[case][0]).eval()
    a, b = (outcome(e, objective, net, episodes(), bn) for e in (Learn2Learn(), Vectorized(None)))
    assert torch.equal(a.correct, b.correct)
    assert set(a.scalars) == {"loss", "right/pgd", "right/f", "zero/pgd", "zero/f"}
    assert all(torch.equal(a.scalars[k], b.scalars[k]) for k in a.scalars)


@dataclass(frozen=True)
class Spy:
    """An attack that changes nothing and notes whether one query's loss has a gradient in the other queries."""

    reached: list[bool]
    steps: int = 1

    def iterates(
        self, model: Model, x: torch.Tensor, y: torch.Tensor, reduction: Reduction = no_reduction
    ) -> Iterator[Iterate]:
        def first(at: torch.Tensor) -> torch.Tensor:
            return cross_entropy(lambda z: model(z)[:1], Batch(at, y[:1], x[:0]))

        slope = torch.func.grad(first)(x)
        assert slope[0].any()
        self.reached.append(bool(slope[1:].any()))
        yield Iterate(x, None, None)

    def __call__(self, model: Model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        [only] = self.iterates(model, x, y)
        return only.x


@pytest.mark.parametrize(("bn", "alone"), [("support", True), ("running", True), ("batch", False)])
def test_an_attack_differentiates_the_mode_that_predicts(bn, alone):
    """The gradient of one query's loss reaches the other queries in batch mode alone, at test and in training."""
    algorithm, _, steps = CASES["maml"]
    learner, episode, spy = TaskLearner(net_of(algorithm), True), task(episodes(), 0), Spy([])
    at_test = RobustObjective(algorithm, steps, cross_entropy, PREDICTIONS[bn], {"spy": spy}, "query")
    attacked = attacked_loss(cross_entropy, spy, "replace", 1.0)  # type: ignore[arg-type]
    training = QueryLoss(algorithm, steps, cross_entropy, attacked, PREDICTIONS[bn])
    with running_statistics() if bn == "running" else torch.enable_grad():
        for objective in (at_test, training):
            objective(learner, episode, torch.zeros(()))  # type: ignore[arg-type]
    assert spy.reached == [not alone, not alone]


def test_own_loss_raises_the_loss_of_the_unadapted_model():
    algorithm = CASES["maml"][0]
    net = net_of(algorithm)
    episode = task(episodes(), 0)
    support = episode.support
    learner = TaskLearner(net, False)
    objective = robust("maml", "running", on="support", support="own_loss")
    poison = SupportAttack(algorithm, 2, cross_entropy, objective.predict, False)
    dead: list[torch.Tensor] = []
    attack = objective.attacks["pgd"]
    none_right = torch.zeros_like(episode.query.y).bool()  # at the clean one: of equals the last is taken
    attacked, _ = poison.worst(learner, episode, ~none_right, attack, dead)  # type: ignore[arg-type]
    assert cross_entropy(learner, attacked) > cross_entropy(learner, support) + 0.01
    expected = [tried.x for tried in attack.iterates(learner, support.x, support.y)]
    assert any(torch.equal(attacked.x, x) for x in expected)
    assert torch.equal(attacked.y, support.y)


@dataclass(frozen=True)
class Script:
    """An attack that tries the given images in turn, each as the end of a climb, or only the last."""

    images: tuple[torch.Tensor, ...]
    one_climb: bool = False
    steps: int = 1

    def iterates(self, model, x, y, reduction: Reduction = no_reduction) -> Iterator[Iterate]:
        for image in self.images:
            on_the_way = self.one_climb and image is not self.images[-1]
            yield Iterate(image.expand_as(x), model(x) if on_the_way else None, None)

    def __call__(self, model, x, y):
        return self.images[-1].expand_as(x)


def test_an_image_is_robust_only_if_it_is_right_clean_and_at_every_try():
    def model(x: torch.Tensor) -> torch.Tensor:  # says class 1 above 1/2
        return torch.stack([0.5 - x, x - 0.5], 1).reshape(len(x), 2)

    class Fixed:
        def parts(self, body, features):
            return {}

        def adapt(self, learner, support, loss, steps):
            yield model

    dark, light = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    query = Batch(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1), torch.tensor([1, 1]), torch.zeros(0, 1, 1, 1))
    scripts = {"good": (light, light), "between": (light, dark, light), "end": (light, dark)}
    attacks = {name: Script(images) for name, images in scripts.items()}
    objective = RobustObjective(Fixed(), 0, cross_entropy, PREDICTIONS["running"], attacks, "query")
    found = objective(model, Episode(query, query), torch.zeros(())).scalars  # type: ignore[arg-type]
    assert found["right/good"].tolist() == [True, False]  # an attack that helps does not count
    assert found["right/between"].tolist() == [False, False]
    assert found["right/end"].tolist() == [False, False]


class Follower:
    """An algorithm whose model says class 1 where the support is light, and which notes how light it was."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def parts(self, body, features):
        return {}

    def adapt(self, learner, support, loss, steps):
        light = support.x.mean()
        self.seen.append(light.item())
        yield lambda x: torch.stack([0.5 - light, light - 0.5]).expand(len(x), 2)


@pytest.mark.parametrize("one_climb", [False, True])
@pytest.mark.parametrize("on", ["support", "both"])
def test_a_task_is_adapted_to_every_support_that_was_tried_and_attacked_at_the_worst(on, one_climb):
    dark, grey, light = (torch.full((1, 1, 1, 1), value) for value in (0.0, 0.75, 1.0))
    batch = Batch(light.expand(2, -1, -1, -1), torch.tensor([1, 1]), torch.zeros(0, 1, 1, 1))
    algorithm, script = Follower(), Script((grey, dark, light), one_climb)
    objective = RobustObjective(
        algorithm, 0, cross_entropy, PREDICTIONS["running"], {"script": script}, on, support="own_loss"
    )
    found = objective(None, Episode(batch, batch), torch.zeros(())).scalars  # type: ignore[arg-type]
    assert found["right/script"].tolist() == [False, False]
    after = [0.0] if on == "both" else []  # the one at which the queries are attacked, beside the clean one
    assert algorithm.seen[2:] == [0.75, 0.0, 1.0, *after]  # after the clean one and the attacked one


def test_no_query_chooses_a_support_of_its_own():
    """Right at every support that was tried let each query choose its own poison: of [no, yes], [yes, no] none held."""

    class Either:
        def parts(self, body, features):
            return {}

        def adapt(self, learner, support, loss, steps):
            light = support.x.mean()  # below 1/4 the first query is wrong, above 3/4 all but the last
            wrong = torch.stack([light < 0.25, light > 0.75, light > 0.75, light < 0])
            yield lambda x: torch.stack([wrong, ~wrong], 1).double()

    x = torch.full((4, 1, 1, 1), 0.5)
    batch = Batch(x, torch.tensor([1, 1, 1, 1]), x[:0])
    script = Script(tuple(torch.full((1, 1, 1, 1), value) for value in (0.0, 1.0, 0.4)))
    objective = RobustObjective(
        Either(), 0, cross_entropy, PREDICTIONS["running"], {"s": script}, "support", support="own_loss"
    )
    found = objective(None, Episode(batch, batch), torch.zeros(()))  # type: ignore[arg-type]
    assert found.correct.all()
    assert found.scalars["right/s"].tolist() == [True, False, False, True]


@pytest.mark.parametrize("engine", [Learn2Learn(), Vectorized(None)], ids=["loop", "vmap"])
@pytest.mark.parametrize("support", ["adapt", "own_loss"])
@pytest.mark.parametrize("case", quick(["maml", "protonet"], among("protonet")))
def test_every_step_of_a_support_attack_counts(case, support, engine):
    """Of PGD-8 with large steps: no more are right after all of them than after some, nor than at the end."""
    algorithm, _, steps = CASES[case]
    net = net_of(algorithm).eval()

    def right(*attacks: PGD) -> torch.Tensor:
        named = {str(i): attack for i, attack in enumerate(attacks)}
        predict = PREDICTIONS["support"]
        objective = RobustObjective(algorithm, steps, cross_entropy, predict, named, "support", support=support)
        result = outcome(engine, objective, net, episodes(), "support")
        return torch.stack([result.scalars[f"right/{i}"] for i in named])

    shorter = right(*(PGD(0.5, "linf", n, 0.3, False, 1, "cross_entropy") for n in (1, 2, 4, 8))).sum(2)
    assert (shorter == shorter.cummin(0).values).all()  # PGD-n comes by all that PGD-m < n comes to
    assert shorter[-1].sum() < shorter[0].sum()


def test_a_support_that_is_the_clean_one_is_not_adapted_to_again():
    algorithm = Follower()
    x = torch.rand(4, 1, 2, 2)
    batch = Batch(x, torch.tensor([0, 1, 0, 1]), x[:0])
    for attack, adapted in {
        PGD(0.1, "linf", 3, None, False, 1, "margin"): 3,
        PGD(0.1, "linf", 3, None, True, 2, "margin"): 8,
        FAB(0.1, "linf", 5, 1, 1): 1,
        Square(0.1, "l2", 7, 0.8): 8,
    }.items():
        algorithm.seen.clear()
        predict = PREDICTIONS["running"]
        objective = RobustObjective(algorithm, 0, cross_entropy, predict, {"a": attack}, "support", support="own_loss")
        objective(None, Episode(batch, batch), torch.zeros(()))  # type: ignore[arg-type]
        assert len(algorithm.seen) == 2 + adapted, attack
