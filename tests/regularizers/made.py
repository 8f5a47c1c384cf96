"""What the tests of regularizers are made of."""

from torch import Tensor

from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.core.interfaces import Batch, Engine, Loss, Objective
from metalab.regularizers import ObjectiveContext, Penalized, Regularizer, combine
from metalab.regularizers.adversarial import AdvFGSM, AdvPGD, How, On, Where
from tests.attacks.nets import CASES, PROGRESS, episodes, net_of


def fgsm(on: On = "query", where: Where = "outer", how: How = "replace", weight=1.0, random_start=False) -> AdvFGSM:
    return AdvFGSM(20.0, "linf", None, random_start, "cross_entropy", on, where, how, weight)


def pgd(on: On = "query", how: How = "replace", random_start=False) -> AdvPGD:
    return AdvPGD(20.0, "linf", 3, 7.0, random_start, "margin", on, "outer", how, 0.5)


def objective(case: str, regularizers: list[Regularizer]) -> Objective:
    """As recipe.objective puts it together."""
    algorithm, kind, steps = CASES[case]
    terms = combine(regularizers)
    inner = terms.inner(cross_entropy)

    def make(loss: Loss) -> Objective:
        return kind(algorithm, steps, inner, loss, predict_transductive)

    return Penalized(
        terms.wrap_objective(make, ObjectiveContext(algorithm, steps, inner))(terms.outer(cross_entropy)), terms.penalty
    )


def found(engine: Engine, case: str, regularizers: list[Regularizer]) -> tuple[Tensor, dict[str, Tensor]]:
    net = net_of(CASES[case][0])
    result = engine.grad(objective(case, regularizers), net, episodes(), PROGRESS)
    return result.loss, {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


def loss_of(algorithm, steps, learner, support: Batch, query: Batch) -> Tensor:
    *_, model = algorithm.adapt(learner, support, cross_entropy, steps)
    return cross_entropy(model, query)
