"""What gradient-based algorithms share: the parameters a task adapts, and one inner step."""

from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from torch import Tensor

from metalab.algorithms.components.inner_optimizers import InnerOptimizer
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Learner, Loss, Model


def adapted_parameter_names(
    learner: Learner, prefixes: tuple[str, ...] = ("body.", "head."), norms: bool = True
) -> list[str]:
    """Return the names of the parameters that the inner loop changes; learned rates and the like stay.

    norms: whether gains and shifts of batch norm are among them.
    """
    parameters = {n: p for n, p in learner.parameters().items() if n.startswith(prefixes)}
    return list(parameters) if norms else without_norms(parameters)


def without_norms(parameters: Mapping[str, Tensor]) -> list[str]:
    """Return the names of all but the norms' parameters: a weight of one dimension and the bias beside it."""
    norms = {n.removesuffix("weight") for n, p in parameters.items() if n.endswith(".weight") and p.dim() == 1}
    return [n for n in parameters if f"{n.rpartition('.')[0]}." not in norms]


NO_WEIGHTS = ("rates.", "curvature.", "ridge.", "svm.", "sharpness.", "memory.", "reg_")  # learned, but not to be small

NO_WEIGHT = (".factor", ".shift")  # of meta-transfer learning


def weights(names: Iterable[str]) -> list[str]:
    """Return those of the parameters' names that are a net's weights: no learned rates, scales or memory."""
    found = [name for name in names if not name.startswith(NO_WEIGHTS) and not name.endswith(NO_WEIGHT)]
    if not found:
        raise UserError("reg.l2 and reg.gradient_norm work on a net's weights, and this net has none: leave them out")
    return found


def inner_step(
    learner: Learner, batch: Batch, loss: Loss, how: InnerOptimizer, names: list[str], first_order: bool
) -> tuple[Learner, InnerOptimizer]:
    """Take one inner step on the named parameters; with sgd theta' = theta - lr grad L(theta) (MAML, eq. 1)."""
    gradient = learner.grad(lambda at: loss(at, batch), names, first_order)
    stepped, how = how.step(learner.parameters(), gradient)
    return learner.replace(stepped), how


class CachedFeatures:
    """A learner whose features [N,D] of some images are known: a task that leaves the body alone takes them once."""

    def __init__(self, learner: Learner, x: Tensor, features: Tensor) -> None:
        self.learner, self.x, self.features = learner, x, features

    def __call__(self, x: Tensor) -> Tensor:
        return self.learner.part("head", self.features) if x is self.x else self.learner(x)

    def parameters(self) -> dict[str, Tensor]:
        """Return the learner's, for what penalizes weights."""
        return self.learner.parameters()


def adapted_heads(
    learner: Learner, support: Batch, loss: Loss, steps: int, how: InnerOptimizer, first_order: bool
) -> Iterator[Learner]:
    """Give the learner as it is and after each inner step on its head, for which the support passes the body once."""
    names = adapted_parameter_names(learner, ("head.",))
    yield learner
    features = learner.features(support.x).flatten(1)

    def on_known(at: Model, batch: Batch) -> Tensor:
        return loss(CachedFeatures(cast(Learner, at), batch.x, features), batch)

    for _ in range(steps):
        learner, how = inner_step(learner, support, on_known, how, names, first_order)
        yield learner
