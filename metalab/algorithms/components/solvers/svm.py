"""A multi-class support vector machine as a layer: its dual, a quadratic programme, solved by proxsuite."""

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from metalab.core.errors import UserError
from metalab.core.typed_torch import solve

EPS = 1e-10  # of the solver, on its residuals


def available() -> None:
    """Raise UserError where the solver is not installed."""
    try:
        importlib.import_module("proxsuite")
    except ImportError:
        raise UserError("algo=metaoptnet needs the package proxsuite: type pip install proxsuite") from None


def dual(gram: Tensor, onto: Tensor, c: float) -> Tensor:
    """Return the weights [N,K] of N supports for K classes: the dual of Crammer and Singer's machine.

    gram [N,N]: inner products of the supports; onto [N,K]: their one-hot labels. The least
    1/2 sum_k a_k' (gram + I) a_k - <onto, a> with a <= c * onto and rows that sum to 0 (Lee et al. 2019, eq. 9; the I
    is their code's), in float64. The solver says which weights stand at their bound; with those fixed the rest solves
    linear equations, which can be differentiated as often as one likes, under vmap too.
    """
    n, way = onto.shape
    at_bound, linear = AtBound.apply(gram, onto, c).flatten(), onto.double().flatten()
    eye = torch.eye(n * way, dtype=linear.dtype, device=gram.device)
    whole = torch.kron(gram.double(), eye[:way, :way]) + eye
    sums = torch.kron(eye[:n, :n], eye.new_ones(way, 1))  # [NK,N] which weights are of one support
    free = (1 - at_bound)[:, None]
    above = torch.cat([free * whole + at_bound[:, None] * eye, free * sums], 1)
    system = torch.cat([above, torch.cat([sums.T, eye.new_zeros(n, n)], 1)])
    right = torch.cat([torch.where(at_bound > 0, c * linear, linear), eye.new_zeros(n)])
    return solve(system, right)[: n * way].reshape(n, way).to(gram.dtype)


class AtBound(Function):
    """gram, onto, c -> 1 where a weight [N,K] is c * onto at the solution, else 0; on the CPU, problem by problem."""

    @staticmethod
    def forward(gram: Tensor, onto: Tensor, c: float) -> Tensor:
        grams, labels = (t.detach().to("cpu", torch.float64).reshape(-1, *t.shape[-2:]).numpy() for t in (gram, onto))
        found = np.stack([solved(*problem, c) for problem in zip(grams, labels, strict=True)])
        return torch.as_tensor(found).to(gram.device).reshape(onto.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        matrices = [
            a if not isinstance(a, Tensor) else a.expand(info.batch_size, *a.shape) if d is None else a.movedim(d, 0)
            for a, d in zip(args, in_dims, strict=True)
        ]
        return AtBound.apply(*matrices), 0


def solved(gram: np.ndarray, onto: np.ndarray, c: float) -> np.ndarray:
    """Return 1 where the solution [N,K] stands at its upper bound, by proxsuite, else 0."""
    from proxsuite import proxqp

    n, way = onto.shape
    problem = proxqp.dense.QP(n * way, n, n * way)
    problem.settings.eps_abs, problem.settings.eps_rel = EPS, 0.0
    whole = np.kron(gram, np.eye(way)) + np.eye(n * way)
    rows, zeros = np.kron(np.eye(n), np.ones((1, way))), np.zeros(n)
    none, bound = np.full(n * way, -1e20), c * onto.ravel()  # no lower bound
    problem.init(whole, -onto.ravel(), rows, zeros, np.eye(n * way), none, bound)
    problem.solve()
    found = problem.results  # of the room to the bound and its multiplier one is 0
    return (found.z > bound - found.x).astype(np.float64).reshape(n, way)
