"""MetaOptNet's machine: scipy finds the same weights, its derivative is that of differences, tasks do not mix."""

import sys

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, minimize
from torch import Tensor

from metalab.algorithms.components.solvers.svm import dual
from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.algorithms.solver_based.metaoptnet import MetaOptNet
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch
from metalab.engines.learn2learn import Learn2Learn
from tests.algorithms.made import WAY, episodes, net_of, objective, outer

C = 0.1


def problem(tasks: int = 1, way: int = 3, shot: int = 2, features: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return features [T,N,D], their inner products and their one-hot labels [N,K]."""
    f = torch.randn(tasks, way * shot, features, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return f, f @ f.mT, torch.eye(way, dtype=torch.float64).repeat(shot, 1)


def test_scipy_finds_the_same_weights():
    """The dual as the paper writes it, N K numbers under N equations, by another solver from another start."""
    _, (gram,), onto = problem()
    n, way = onto.shape
    g, o = gram.numpy(), onto.numpy()

    def value(flat):
        a = flat.reshape(n, way)
        return 0.5 * np.einsum("ik,ij,jk", a, g, a) + 0.5 * (a**2).sum() - (o * a).sum()

    def slope(flat):
        a = flat.reshape(n, way)
        return (g @ a + a - o).ravel()

    rows = LinearConstraint(np.kron(np.eye(n), np.ones((1, way))), 0, 0)
    bounds = [(None, C * label) for label in o.ravel()]
    start = np.full(n * way, -0.01)
    found = minimize(value, start, jac=slope, bounds=bounds, constraints=[rows], method="SLSQP", tol=1e-14)
    assert found.success
    weights = dual(gram, onto, C)
    assert (weights.numpy() - found.x.reshape(n, way)).__abs__().max() < 1e-6
    assert weights.sum(1).abs().max() < 1e-8
    assert (weights <= C * onto + 1e-8).all()
    assert (weights.abs() > 1e-4).sum() > n  # not all at a bound of 0


def test_its_derivative_is_that_of_finite_differences():
    f, _, onto = problem()

    def outputs(at: Tensor) -> Tensor:
        return at @ at.T @ dual(at @ at.T, onto, C)

    assert torch.autograd.gradcheck(outputs, (f[0].clone().requires_grad_(),), eps=1e-6, atol=1e-6, rtol=1e-4)


def test_under_vmap_each_task_has_its_own_machine_and_gradient():
    _, gram, onto = problem(tasks=3)
    alone = torch.stack([dual(g, onto, C) for g in gram])
    at = gram.clone().requires_grad_()
    together = torch.func.vmap(lambda g: dual(g, onto, C))(at)
    assert (together - alone).abs().max() < 1e-12
    towards = torch.randn(together.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (mine,) = torch.autograd.grad((together * towards).sum(), at)
    for g, t, got in zip(gram, towards, mine, strict=True):
        one = g.clone().requires_grad_()
        (want,) = torch.autograd.grad((dual(one, onto, C) * t).sum(), one)
        assert (got - want).abs().max() < 1e-12
    inside = torch.func.vmap(torch.func.grad(lambda g, t: (dual(g, onto, C) * t).sum()))(gram, towards)
    assert (inside - mine).abs().max() < 1e-12


def test_points_far_apart_are_all_classified_right():
    class Given:
        def features(self, x):
            return x

        def parameters(self):
            return {"svm.scale": torch.tensor(2.0)}

    centres = 5 * torch.eye(3)
    x, y = (
        centres.repeat(4, 1) + torch.randn(12, 3, generator=torch.Generator().manual_seed(0)),
        torch.arange(3).repeat(4),
    )
    (model,) = MetaOptNet(3, C, 1.0).adapt(Given(), Batch(x, y, x[:0]), cross_entropy, 0)  # type: ignore[arg-type]
    assert (model(x).argmax(1) == y).all()
    assert model(10 * centres).argmax(1).tolist() == [0, 1, 2]


def test_body_and_scale_learn_through_the_machine():
    algorithm = MetaOptNet(WAY, C, 2.0)
    net = net_of(algorithm)
    _, gradient = outer(Learn2Learn(), objective(QueryLoss, algorithm, 0), net, episodes())
    assert gradient["svm.scale"].abs() > 1e-6
    assert gradient["body.0.0.weight"].abs().max() > 1e-6


def test_its_second_derivative_is_that_of_finite_differences():
    f, _, onto = problem()

    def outputs(at: Tensor) -> Tensor:
        return dual(at @ at.T, onto, C).square()

    assert torch.autograd.gradgradcheck(outputs, (f[0].clone().requires_grad_(),), eps=1e-6, atol=1e-5, rtol=1e-3)


def test_without_its_solver_one_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "proxsuite", None)
    with pytest.raises(UserError, match="algo=metaoptnet needs the package proxsuite"):
        MetaOptNet(5, 0.1, 1.0)
