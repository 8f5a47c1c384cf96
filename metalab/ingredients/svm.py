"""A multi-class support vector machine as a layer: its dual, a quadratic programme, solved by proxsuite."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from metalab.errors import UserError

EPS = 1e-10  # of the solver, on its residuals


def available() -> None:
    """Raise UserError where the solver is not installed."""
    try:
        import proxsuite  # noqa: F401
    except ImportError:
        raise UserError("algo=metaoptnet needs the package proxsuite: type pip install proxsuite") from None


def dual(gram: Tensor, onto: Tensor, c: float) -> Tensor:
    """Return the weights [N,K] of N supports for K classes: the dual of Crammer and Singer's machine.

    gram [N,N]: inner products of the supports; onto [N,K]: their one-hot labels. The least
    1/2 sum_k a_k' (gram + I) a_k - <onto, a> with a <= c * onto and rows that sum to 0 (Lee et al. 2019, eq. 9; the I
    is their code's). It can be differentiated once, under vmap too; each problem is solved on the CPU in float64.
    """
    return Solve.apply(gram, onto, c)  # type: ignore[return-value]


class Solve(Function):
    """gram, onto, c -> the weights."""

    @staticmethod
    def forward(gram: Tensor, onto: Tensor, c: float) -> Tensor:
        return each(lambda g, o: solved(g, o, c).results.x.reshape(o.shape), gram, onto)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        gram, onto, ctx.c = inputs
        ctx.save_for_backward(gram, onto)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        return Slope.apply(slope, *ctx.saved_tensors, ctx.c), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return at_once(Solve, info.batch_size, in_dims, args)


class Slope(Function):
    """The gradient of the weights, gram, onto, c -> the gradient of gram."""

    @staticmethod
    def forward(slope: Tensor, gram: Tensor, onto: Tensor, c: float) -> Tensor:
        from proxsuite import proxqp

        def one(s: np.ndarray, g: np.ndarray, o: np.ndarray) -> np.ndarray:
            problem, (n, way) = solved(g, o, c), o.shape
            given = np.concatenate([s.ravel(), np.zeros(n + n * way)])
            exact = {"eps": EPS, "rho_backward": 1e-10, "mu_backward": 1e-10}
            proxqp.dense.compute_backward(qp=problem, loss_derivative=given, **exact)
            whole = problem.model.backward_data.dL_dH.reshape(n, way, n, way)
            return np.einsum("ikjk->ij", whole)

        return each(one, slope, gram, onto)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise UserError(
            "the support vector machine of algo=metaoptnet has no second derivative; leave out what asks it"
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return at_once(Slope, info.batch_size, in_dims, args)


def solved(gram: np.ndarray, onto: np.ndarray, c: float) -> Any:
    """Return proxsuite's problem, solved."""
    from proxsuite import proxqp

    n, way = onto.shape
    problem = proxqp.dense.QP(n * way, n, n * way)
    problem.settings.eps_abs, problem.settings.eps_rel = EPS, 0.0
    whole = np.kron(gram, np.eye(way)) + np.eye(n * way)
    rows, zeros = np.kron(np.eye(n), np.ones((1, way))), np.zeros(n)
    none = np.full(n * way, -1e20)  # no lower bound
    problem.init(whole, -onto.ravel(), rows, zeros, np.eye(n * way), none, c * onto.ravel())
    problem.solve()
    return problem


def each(one: Any, *given: Tensor) -> Tensor:
    """Run `one` on each of the matrices [...,r,s] as numpy arrays and return what comes out as one tensor."""
    first, *_ = given
    lists = [t.detach().to("cpu", torch.float64).reshape(-1, *t.shape[-2:]).numpy() for t in given]
    found = np.stack([one(*matrices) for matrices in zip(*lists, strict=True)])
    return torch.from_numpy(found).to(first).reshape(*first.shape[:-2], *found.shape[1:])


def at_once(function: type[Function], tasks: int, in_dims: Any, args: Any) -> Any:
    """Run a function of this file on all tasks: they become the first dimension of its matrices."""
    matrices = [
        a if not isinstance(a, Tensor) else a.expand(tasks, *a.shape) if d is None else a.movedim(d, 0)
        for a, d in zip(args, in_dims, strict=True)
    ]
    return function.apply(*matrices), 0
