"""iMAML: its implicit gradient against a dense solve and against differences."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.algorithms.gradient_based.imaml import IMAML
from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.objectives.implicit_gradient import ImplicitGradient, conjugate_gradient
from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.interfaces import Batch, Episode
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.models.backbones import FC
from metalab.models.meta_net import Net
from tests.algorithms.made import ENGINES, TASKS, WAY, Gradient, episodes, far, net_of, objective, outer


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
    _, got = outer(ENGINES[engine], objective(ImplicitGradient, algorithm, 5), net, batch)
    expected = [dense(algorithm, net, task(batch, t), 5) for t in range(TASKS)]
    mean = {n: torch.stack([e[n] for e in expected]).mean(0) for n in expected[0]}
    assert far(got, mean) < 1e-10
    _, rough = outer(ENGINES[engine], objective(ImplicitGradient, replace(algorithm, cg_steps=1), 5), net, batch)
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


@pytest.mark.slow
@pytest.mark.parametrize("head", ["learned", "zero", "prototype", "knn"])
def test_imamls_meta_gradient_is_that_of_finite_differences_through_the_solved_inner_problem(head):
    algorithm = IMAML(WAY, 0.01, 20.0, 60, 0.0, head)
    net, batch, steps = net_of(algorithm, FC((4,)), 4, 1.0), episodes(4), 120
    _, gradient = outer(Learn2Learn(), objective(ImplicitGradient, algorithm, steps), net, batch)
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
