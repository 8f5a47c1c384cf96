"""iMAML, BOIL and MAML++: values against oracles, and the same gradients on both engines, in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.boil import BOIL
from metalab.algorithms.imaml import IMAML
from metalab.algorithms.maml import MAML
from metalab.algorithms.mamlpp import MAMLPP
from metalab.algorithms.metacurvature import MetaCurvature
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.engines.vectorised import Vectorised
from metalab.interfaces import Algorithm, Batch, Engine, Episode, Objective, TaskResult
from metalab.models.backbones import FC, Conv4
from metalab.models.layers import Normalise
from metalab.models.net import Net
from metalab.objectives.implicit import Implicit, conjugate_gradient
from metalab.objectives.judge import cross_entropy, together
from metalab.objectives.multi_step import MultiStep, step_weights
from metalab.objectives.query import QueryLoss

WAY, SHOT, QUERY, TASKS = 3, 2, 2, 2
ENGINES = {"learn2learn": Learn2Learn(), "vectorised": Vectorised(None)}
Gradient = dict[str, Tensor]


def episodes(size: int = 16) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def batch(each: int) -> Batch:
        x = torch.rand(TASKS, WAY * each, 1, size, size, generator=generator, dtype=torch.float64)
        return Batch(x, torch.arange(WAY).repeat(TASKS, each), x[:, :0])

    return Episode(batch(SHOT), batch(QUERY))


def net_of(algorithm: Algorithm, body: Conv4 | FC | None = None, size: int = 16, noise: float = 0.1) -> Net:
    torch.manual_seed(0)
    inside = (body or Conv4(4, 4, False, False)).build(1, size)
    net = Net(Normalise([0.5], [0.3]), inside, nn.Sequential(), algorithm.parts(inside, 4)).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith(("body.", "head.")):
                p.add_(noise * torch.randn_like(p))
    return net


def outer(engine: Engine, objective: Objective, net: Net, batch: Episode, progress: float = 0.0) -> tuple:
    net.zero_grad()
    result = engine.grad(objective, net, batch, torch.tensor(progress))
    return result, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def objective(kind: type, algorithm: Algorithm, steps: int) -> Objective:
    return kind(algorithm, steps, cross_entropy, cross_entropy, together)


def far(a: Gradient, b: Gradient) -> float:
    assert set(a) == set(b)
    return max((a[n] - b[n]).abs().max().item() for n in a)


CASES = {
    "imaml": (IMAML(WAY, 0.1, 2.0, 5, 0.0), Implicit, 3, 0.0),
    "imaml damped": (IMAML(WAY, 0.1, 2.0, 5, 1.0), Implicit, 3, 0.0),
    "boil": (BOIL(WAY, 0.5, False, "learned"), QueryLoss, 2, 0.0),
    "boil prototype": (BOIL(WAY, 0.01, False, "prototype"), QueryLoss, 2, 0.0),
    "metacurvature": (MetaCurvature(WAY, 0.1, False), QueryLoss, 2, 0.0),
    "mamlpp at first": (MAMLPP(WAY, 0.125, 2, 0.5, 0.3), MultiStep, 3, 0.1),
    "mamlpp at last": (MAMLPP(WAY, 0.125, 2, 0.5, 0.3), MultiStep, 3, 0.9),
}


@pytest.mark.parametrize("case", CASES)
def test_both_engines_have_the_same_losses_and_meta_gradients(case):
    algorithm, kind, steps, progress = CASES[case]
    net, aim = net_of(algorithm), objective(kind, algorithm, steps)
    loop, slow = outer(Learn2Learn(), aim, net, episodes(), progress)
    fast, quick = outer(Vectorised(None), aim, net, episodes(), progress)
    assert max(g.abs().max() for g in slow.values()) > 1e-3
    assert (loop.loss - fast.loss).abs().max() < 1e-10
    assert torch.equal(loop.correct, fast.correct)
    assert far(slow, quick) < 1e-10


# iMAML


def dense(algorithm: IMAML, net: Net, episode: Episode, steps: int) -> Gradient:
    """The meta-gradient by a dense Hessian and a dense solve."""
    *_, phi = algorithm.adapt(TaskLearner(net, False), episode.support, cross_entropy, steps)
    at = {n: p.detach() for n, p in phi.parameters().items()}  # type: ignore[attr-defined]
    flat = torch.cat([p.flatten() for p in at.values()])

    def loss(vector: Tensor, batch: Batch) -> Tensor:
        pieces = vector.split([p.numel() for p in at.values()])
        tensors = {n: piece.view_as(p) for (n, p), piece in zip(at.items(), pieces, strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, tensors, ("logits", batch.x)), batch.y)

    hessian: Any = torch.autograd.functional.hessian(lambda v: loss(v, episode.support), flat)
    right: Any = torch.autograd.functional.jacobian(lambda v: loss(v, episode.query), flat)
    matrix = (1 + algorithm.cg_damping) * torch.eye(len(flat), dtype=flat.dtype) + hessian / algorithm.lam
    solved = torch.linalg.solve(matrix, right).split([p.numel() for p in at.values()])
    return {n: piece.view_as(p) for (n, p), piece in zip(at.items(), solved, strict=True)}


@pytest.mark.parametrize("damping", [0.0, 0.5])
@pytest.mark.parametrize("engine", ENGINES)
def test_imamls_meta_gradient_is_that_of_a_dense_solve(engine, damping):
    algorithm = IMAML(WAY, 0.02, 10.0, 40, damping)
    net, batch = net_of(algorithm, FC((4,)), 4, 0.5), episodes(4)
    _, got = outer(ENGINES[engine], objective(Implicit, algorithm, 5), net, batch)
    expected = [dense(algorithm, net, task(batch, t), 5) for t in range(TASKS)]
    mean = {n: torch.stack([e[n] for e in expected]).mean(0) for n in expected[0]}
    assert far(got, mean) < 1e-10
    _, rough = outer(ENGINES[engine], objective(Implicit, replace(algorithm, cg_steps=1), 5), net, batch)
    assert far(rough, mean) > 1e-4


def test_the_conjugate_gradient_stops_where_the_system_is_not_positive_and_at_the_solution():
    matrix = torch.diag(torch.tensor([2.0, 1.0, -3.0], dtype=torch.float64))
    right = {"a": torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)}
    exact = conjugate_gradient(lambda v: {"a": matrix @ v["a"]}, right, 9)[
        "a"
    ]  # done after 2: the others change nothing
    assert (exact - torch.tensor([0.5, 1.0, 0.0])).abs().max() < 1e-12
    bent = conjugate_gradient(lambda v: {"a": matrix @ v["a"]}, {"a": right["a"].flip(0)}, 9)["a"]
    assert bent.isfinite().all()


def test_imaml_the_proximal_term_is_in_every_inner_step_and_holds_phi_at_theta():
    """The reference code leaves it out and pulls back once at the end; its CG operator divides by lam + 10."""
    batch = task(episodes(4), 0).support
    free, held = IMAML(WAY, 0.05, 1e-9, 5, 0.0), IMAML(WAY, 0.05, 2.0, 5, 0.0)
    net = net_of(free, FC((4,)), 4, 0.5)
    start = TaskLearner(net, False)
    mine = list(MAML(WAY, 0.05, True, "learned").adapt(start, batch, cross_entropy, 3))
    unheld = list(free.adapt(start, batch, cross_entropy, 3))
    assert far(mine[3].parameters(), unheld[3].parameters()) < 1e-8  # type: ignore[attr-defined]
    phi, theta = list(held.adapt(start, batch, cross_entropy, 250))[-1], start.parameters()
    gradient = phi.grad(lambda at: cross_entropy(at, batch))  # type: ignore[attr-defined]
    pull = {n: 2.0 * (p - theta[n]) for n, p in phi.parameters().items()}  # type: ignore[attr-defined]
    assert far(gradient, {n: -p for n, p in pull.items()}) < 1e-6  # eq. 3 is stationary there
    assert max(g.abs().max() for g in gradient.values()) > 1e-3


def test_imamls_meta_gradient_is_that_of_finite_differences_through_the_solved_inner_problem():
    algorithm = IMAML(WAY, 0.01, 20.0, 60, 0.0)
    net, batch, steps = net_of(algorithm, FC((4,)), 4, 1.0), episodes(4), 120
    _, gradient = outer(Learn2Learn(), objective(Implicit, algorithm, steps), net, batch)
    theta = {n: p.detach().clone() for n, p in net.named_parameters()}
    torch.manual_seed(1)
    direction = {n: torch.randn_like(p) for n, p in theta.items()}

    def at(h: float) -> float:
        with torch.no_grad():
            for n, p in net.named_parameters():
                p.copy_(theta[n] + h * direction[n])
        return Learn2Learn().evaluate(objective(QueryLoss, algorithm, steps), net, batch).loss.mean().item()

    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    assert slope == pytest.approx(sum((gradient[n] * direction[n]).sum().item() for n in gradient), rel=1e-5)


# BOIL


def test_boil_changes_the_body_and_never_the_head_within_a_task():
    algorithm = BOIL(WAY, 0.5, False, "learned")
    start = TaskLearner(net_of(algorithm), False)
    before = start.parameters()
    *_, model = algorithm.adapt(start, task(episodes(), 0).support, cross_entropy, 2)
    after = model.parameters()  # type: ignore[attr-defined]
    same = {n for n in before if torch.equal(before[n], after[n])}
    assert same == {"head.weight", "head.bias"}


def test_boil_is_maml_whose_head_has_a_rate_of_0():
    algorithm, net = MAMLPP(WAY, 0.5, 1, 0.0, 0.0), net_of(MAMLPP(WAY, 0.5, 1, 0.0, 0.0))
    with torch.no_grad():
        for name, rate in net.get_submodule("rates").named_parameters():
            rate.fill_(0.0 if name.startswith("head/") else 0.5)
    boil = BOIL(WAY, 0.5, False, "learned")
    result, g = outer(Learn2Learn(), objective(QueryLoss, boil, 2), net, episodes())
    expected, e = outer(Learn2Learn(), objective(QueryLoss, algorithm, 2), net, episodes())
    assert (result.loss - expected.loss).abs().max() < 1e-12
    assert far(g, {n: t for n, t in e.items() if not n.startswith("rates.")}) < 1e-12


# MAML++


def maml_gradient(net: Net, steps: int, first_order: bool) -> tuple[TaskResult, Gradient]:
    return outer(Learn2Learn(), objective(QueryLoss, MAML(WAY, 0.125, first_order, "learned"), steps), net, episodes())


@pytest.mark.parametrize(("progress", "first_order"), [(0.2, True), (0.3, False), (0.9, False)])
def test_mamlpp_is_first_order_before_its_share_of_training_and_second_order_from_there(progress, first_order):
    algorithm = MAMLPP(WAY, 0.125, 2, 0.0, 0.3)
    net = net_of(algorithm)
    _, got = outer(Learn2Learn(), objective(MultiStep, algorithm, 2), net, episodes(), progress)
    rates = {n: g for n, g in got.items() if n.startswith("rates.")}
    _, same = maml_gradient(net, 2, first_order)
    _, other = maml_gradient(net, 2, not first_order)
    mine = {n: g for n, g in got.items() if n not in rates}
    assert far(mine, same) < 1e-12
    assert far(mine, other) > 1e-4
    assert all(g.abs().max() > 0 for n, g in rates.items() if not n.endswith("0/bias"))  # learned in both


def test_mamlpps_rates_are_one_a_tensor_and_step_and_the_last_serves_later_steps():
    algorithm = MAMLPP(WAY, 0.125, 2, 0.0, 0.0)
    net = net_of(algorithm)
    rates = dict(net.get_submodule("rates").named_parameters())
    assert set(rates) == {n.replace(".", "/") for n, _ in net.named_parameters() if n.startswith(("body.", "head."))}
    assert all(rate.shape == (2,) for rate in rates.values())
    with torch.no_grad():
        for rate in rates.values():
            rate.copy_(torch.tensor([0.0, 0.25]))
    batch = task(episodes(), 0).support
    models = list(algorithm.adapt(TaskLearner(net, False), batch, cross_entropy, 3))
    plain = list(MAML(WAY, 0.25, False, "learned").adapt(TaskLearner(net, False), batch, cross_entropy, 2))
    assert torch.equal(models[0](batch.x), models[1](batch.x))
    for ours, theirs in zip(models[1:], plain, strict=True):
        assert (ours(batch.x) - theirs(batch.x)).abs().max() < 1e-12


def test_mamlpps_multi_step_weights_are_annealed_as_the_papers_code_does():
    """Its loop by hand: 5 steps, 10 of 100 epochs; afterwards the last step's loss alone."""
    for epoch in (0, 1, 5, 9, 9.9):
        others = max(1 / 5 - epoch / 5 / 10, 0.03 / 5)
        last = min(1 / 5 + epoch * 4 / 5 / 10, 1 - 4 * 0.03 / 5)
        weights = step_weights(5, torch.tensor(epoch / 100, dtype=torch.float64), 0.1)
        assert (weights - torch.tensor([others] * 4 + [last])).abs().max() < 1e-6
    assert step_weights(5, torch.tensor(0.1), 0.1).tolist() == [0, 0, 0, 0, 1]
    assert step_weights(5, torch.tensor(0.0), 0.0).tolist() == [0, 0, 0, 0, 1]
    assert step_weights(1, torch.tensor(0.0), 0.1).tolist() == [1]


def test_mamlpps_loss_is_the_weighted_sum_of_the_query_losses_after_each_step():
    algorithm = MAMLPP(WAY, 0.125, 2, 1.0, 0.0)
    net = net_of(algorithm)
    result, _ = outer(Learn2Learn(), objective(MultiStep, algorithm, 2), net, episodes(), 0.5)
    one, two = (maml_gradient(net, steps, False)[0].loss for steps in (1, 2))
    assert (result.loss - (0.25 * one + 0.75 * two)).abs().max() < 1e-12
    assert (result.scalars["loss"] - two).abs().max() < 1e-12


# Meta-curvature


def test_meta_curvature_starts_as_maml_and_its_matrices_multiply_each_side_of_a_gradient():
    algorithm, batch = MetaCurvature(WAY, 0.1, False), task(episodes(), 0).support
    net = net_of(algorithm)
    start = TaskLearner(net, False)
    *_, ours = algorithm.adapt(start, batch, cross_entropy, 2)
    *_, plain = MAML(WAY, 0.1, False, "learned").adapt(start, batch, cross_entropy, 2)
    assert far(ours.parameters(), plain.parameters()) < 1e-12  # type: ignore[attr-defined]
    conv = net.get_submodule("curvature.body/1/0/weight")
    with torch.no_grad():
        for p in conv.parameters():
            p.add_(torch.randn_like(p))
    out, into, place = (dict(conv.named_parameters())[n] for n in ("mc_in", "mc_out", "mc_f"))
    g = torch.randn(4, 4, 3, 3, dtype=torch.float64)
    expected = torch.einsum("oa,abf,bi,fg->oig", out, g.flatten(2), into, place.T).view_as(g)
    assert (conv(g) - expected).abs().max() < 1e-12
