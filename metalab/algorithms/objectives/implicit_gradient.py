"""iMAML's objective: the implicit gradient at the adapted weights, whatever path led there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from metalab.algorithms.components.inner_loop import adapted_parameter_names
from metalab.algorithms.objectives.prediction import Prediction, evaluate_query
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Episode, Learner, Loss, ObjectiveTraits, TaskResult

Vector = dict[str, Tensor]  # of parameters, by name


@runtime_checkable
class ProximalAlgorithm(Algorithm, Protocol):
    """An algorithm whose inner problem holds the weights to where they start, by lam/2 |phi - theta|^2."""

    @property
    def lam(self) -> float: ...
    @property
    def cg_steps(self) -> int: ...
    @property
    def cg_damping(self) -> float: ...


@dataclass(frozen=True)
class ImplicitGradient:
    """<theta, stop(g)>, g the solution of (I + H/lam) g = query gradient at phi (Rajeswaran et al. 2019, eq. 6).

    H is the Hessian at phi of the support's loss, without the proximal term. Its gradient is the meta-gradient;
    damping adds cg_damping * I to the system. theta is what the task starts from and is held to: of a head made of the
    support (algo.head_init=prototype, knn) the gradient goes on to the features it was made of.
    """

    traits: ClassVar = ObjectiveTraits(solves=True)

    algorithm: Algorithm
    steps: int
    inner: Loss
    outer: Loss
    predict: Prediction

    def __post_init__(self) -> None:
        if not isinstance(self.algorithm, ProximalAlgorithm):
            raise UserError(
                "algo.objective=metalab.algorithms.objectives.ImplicitGradient needs the proximal inner problem of "
                "algo=imaml; for other algorithms type algo.objective=metalab.algorithms.objectives.QueryLoss"
            )
        if self.steps < 1:
            raise UserError(f"algo.steps={self.steps}: without an inner step phi is theta; give 1 or more")

    def __call__(self, learner: Learner, episode: Episode, progress: Tensor) -> TaskResult:
        proximal, support, query = cast(ProximalAlgorithm, self.algorithm), episode.support, episode.query
        first, *_, last = proximal.adapt(learner, support, self.inner, self.steps)
        start, adapted_ = cast(Learner, first), cast(Learner, last)
        phi = adapted_.replace({n: p.detach() for n, p in adapted_.parameters().items()})
        names = adapted_parameter_names(phi)

        def queries(at: Learner) -> TaskResult:
            return evaluate_query(lambda x: self.predict(at, support.x, x), query, self.outer)

        with torch.no_grad():
            shown = queries(phi)
        right = phi.grad(lambda at: queries(at).loss, names, first_order=True)

        def product(v: Vector) -> Vector:
            """Return (I + H/lam) v."""

            def along(at: Learner) -> Tensor:
                return dot(at.grad(lambda inside: self.inner(inside, support), names), v)

            bent = phi.grad(along, names, first_order=True)
            return {n: (1 + proximal.cg_damping) * v[n] + bent[n] / proximal.lam for n in names}

        g, theta = conjugate_gradient(product, right, proximal.cg_steps), start.parameters()
        return shown._replace(loss=dot({n: theta[n] for n in names}, {n: g[n].detach() for n in names}))


def conjugate_gradient(product: Callable[[Vector], Vector], right: Vector, steps: int) -> Vector:
    """Return x of A x = right after so many steps from 0 (Hestenes & Stiefel 1952); product(v) is A v.

    A symmetric; a direction along which it is not positive ends the steps, as does a residual of 0.
    """
    x = {n: torch.zeros_like(b) for n, b in right.items()}
    residual, direction, size = right, right, dot(right, right)
    for _ in range(steps):
        along = product(direction)
        curvature = dot(direction, along)
        usable = curvature > 0
        far = torch.where(usable, size / curvature.where(usable, torch.ones_like(curvature)), 0.0)
        x = {n: x[n] + far * direction[n] for n in x}
        residual = {n: residual[n] - far * along[n] for n in x}
        before, size = size, dot(residual, residual)
        turn = torch.where(usable, size / before.where(usable, torch.ones_like(before)), 0.0)
        direction = {n: torch.where(usable, residual[n] + turn * direction[n], 0.0) for n in x}
    return x


def dot(a: Vector, b: Vector) -> Tensor:
    """Return the inner product of two vectors of parameters."""
    return torch.stack([(a[n] * b[n]).sum() for n in a]).sum()
