"""Distillation and learned losses on both engines, against numpy, finite differences and a teacher made by hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.core.interfaces import Episode
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.engines.vectorized import Vectorized
from metalab.regularizers import Regularizer, combine
from metalab.regularizers.distillation import REGRESSOR, Distill, divergence_from_teacher
from metalab.regularizers.learned_loss import PART, LearnedLoss
from tests.attacks.nets import CASES, PROGRESS, WAY, episodes, net_of
from tests.quick import among, quick
from tests.regularizers.made import objective

ENGINES = {"learn2learn": Learn2Learn(), "vectorized": Vectorized(None)}
ALL = LearnedLoss(True, True, True, True, True)


@dataclass(frozen=True)
class Oracle:
    """A teacher that knows the labels."""

    features: int = 3
    sure: float = 20.0

    def logits(self, episode: Episode, way: int) -> Tensor:
        return self.sure * torch.eye(way, dtype=torch.float64)[episode.query.y]

    def embed(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : self.features]


@dataclass(frozen=True)
class Wrong(Oracle):
    """A teacher that is sure of the class after the true one."""

    def logits(self, episode: Episode, way: int) -> Tensor:
        return self.sure * torch.eye(way, dtype=torch.float64)[(episode.query.y + 1) % way]


def meta_gradient(
    case: str, engine: str, given: Sequence[Regularizer], start: dict[str, float] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the losses of the tasks and the gradients, of a net that has what the terms add to it."""
    net, terms = net_of(CASES[case][0]), list(given)
    torch.manual_seed(1)
    for name, part in combine(terms).parts(4).items():
        net.add_module(name, part.double())
    with torch.no_grad():
        for name, value in (start or {}).items():
            net.get_parameter(f"{PART}.{name}").fill_(value)
    result = ENGINES[engine].grad(objective(case, terms), net, episodes(), PROGRESS)
    return result.loss, {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


def far(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert set(a) == set(b)
    return max((a[n] - b[n]).abs().max().item() for n in a)


def distill(weight: float, features: float = 0.0, temperature: float = 2.0, teacher: Oracle | None = None):
    return Distill(None, weight, temperature, features).with_teacher(teacher or Oracle())


def test_the_divergence_is_numpys():
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 5, 4))

    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    p, q = softmax(t / 3), softmax(s / 3)
    expected = 9 * (p * np.log(p / q)).sum(1).mean()
    assert divergence_from_teacher(torch.from_numpy(s), torch.from_numpy(t), 3.0).item() == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("engine", quick(ENGINES, among("learn2learn")))
def test_without_weight_nothing_changes_to_the_last_digit(engine):
    for case in ("maml", "protonet"):
        plain, off = (meta_gradient(case, engine, terms) for terms in ([], [distill(0.0)]))
        assert torch.equal(plain[0], off[0])
        assert all(torch.equal(plain[1][n], off[1][n]) for n in plain[1])


@pytest.mark.parametrize("case", quick(["maml", "anil", "imaml", "protonet"], among("maml", "protonet")))
def test_both_engines_distill_alike(case):
    terms = [distill(0.4, 0.3)]
    (a, slow), (b, fast) = (meta_gradient(case, engine, terms) for engine in ENGINES)
    assert (a - b).abs().max() < 1e-9
    assert far(slow, fast) < 1e-8
    assert slow[f"{REGRESSOR}.weight"].abs().max() > 1e-6
    assert (meta_gradient(case, "vectorized", [])[0] - b).abs().max() > 1e-4


def test_the_loss_is_the_weighted_sum_by_hand():
    whole = meta_gradient("protonet", "learn2learn", [distill(0.4, 0.3)])[0]
    net = net_of(CASES["protonet"][0])
    torch.manual_seed(1)
    regressor = torch.nn.Linear(4, 3).double()
    for t in range(len(whole)):
        support, query = (type(batch)(*(x[t] for x in batch)) for batch in episodes())
        features = net("features", query.x).flatten(1)
        means = torch.stack([net("features", support.x).flatten(1)[support.y == k].mean(0) for k in range(WAY)])
        logits = -(features[:, None] - means).square().sum(2)
        teacher = Oracle().logits(Episode(support, query), WAY)
        taught = torch.nn.functional.kl_div((logits / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="none")
        hint = (regressor(features) - Oracle().embed(query.x)).square().mean() / 2
        plain = torch.nn.functional.cross_entropy(logits, query.y)
        assert whole[t].item() == pytest.approx(
            (0.6 * plain + 0.4 * 4 * taught.sum(1).mean() + 0.3 * hint).item(), rel=1e-9
        )


def test_a_student_follows_its_teacher_even_where_that_is_wrong():
    """weight=1: the labels of the queries are not seen at all."""
    algorithm, kind, steps = CASES["anil"]
    net, terms, batch = net_of(algorithm), [distill(1.0, temperature=1.0, teacher=Wrong())], episodes()
    aim, adam = objective("anil", terms), torch.optim.Adam(net.parameters(), 0.1)
    for _ in range(25):
        net.zero_grad()
        Vectorized(None).grad(aim, net, batch, PROGRESS)
        adam.step()
    turned = Episode(batch.support, batch.query._replace(y=(batch.query.y + 1) % WAY))
    plain = kind(algorithm, steps, cross_entropy, cross_entropy, predict_transductive)
    assert Vectorized(None).evaluate(plain, net, turned).correct.double().mean() > 0.8
    assert Vectorized(None).evaluate(plain, net, batch).correct.double().mean() < 0.2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", quick(["maml", "anil"], among("anil")))
def test_a_learned_loss_starts_as_the_plain_one_to_the_last_digit(case, engine):
    plain, learned = (meta_gradient(case, engine, terms) for terms in ([], [ALL]))
    assert torch.equal(plain[0], learned[0])
    assert all(torch.equal(plain[1][n], learned[1][n]) for n in plain[1])
    own = {n: g for n, g in learned[1].items() if n.startswith(PART)}
    assert len(own) == 5
    assert all(g.abs() > 1e-9 for g in own.values())


VALUES = {"log_temperature": 0.3, "margin": 0.4, "smoothing": 0.2, "entropy": 0.1, "l2": 0.05}


@pytest.mark.parametrize("case", quick(["maml", "anil"], among("maml")))
def test_both_engines_learn_a_loss_alike(case):
    (a, slow), (b, fast) = (meta_gradient(case, engine, [ALL], VALUES) for engine in ENGINES)
    assert (a - b).abs().max() < 1e-9
    assert far(slow, fast) < 1e-8


def test_the_gradients_of_a_learned_loss_are_those_of_finite_differences():
    h, own = 1e-5, meta_gradient("maml", "learn2learn", [ALL], VALUES)[1]
    for name, value in VALUES.items():
        up, down = (
            meta_gradient("maml", "learn2learn", [ALL], {**VALUES, name: value + sign * h})[0].mean()
            for sign in (1, -1)
        )
        assert own[f"{PART}.{name}"].item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-5), name


def test_a_learned_loss_is_its_formula():
    net = net_of(CASES["maml"][0])
    net.add_module(PART, ALL.hooks().kept_parts(4)[PART].double())
    with torch.no_grad():
        for name, value in VALUES.items():
            net.get_parameter(f"{PART}.{name}").fill_(value)
    support = task(episodes(), 0).support
    learner = TaskLearner(net, False)
    found = ALL.hooks().inner(cross_entropy)(learner, support)
    z = net("logits", support.x) - 0.4 * torch.eye(WAY, dtype=torch.float64)[support.y]
    z = z / np.exp(0.3)
    p = z.softmax(1)
    expected = torch.nn.functional.cross_entropy(z, support.y, label_smoothing=0.2) + 0.1 * (p * p.log()).sum(1).mean()
    square = sum(w.square().sum() for n, w in net.named_parameters() if not n.startswith(PART))
    assert found.item() == pytest.approx((expected + 0.05 * square / 2).item(), rel=1e-12)
