"""Meta-curvature: Park, Oliva 2019, sec. 3."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from metalab.algorithms.components.heads import HeadInit, of_class, start_head, task_head
from metalab.algorithms.components.inner_loop import adapted_parameter_names, without_norms
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.core.learn2learn_import import MetaCurvatureTransform


@dataclass(frozen=True)
class MetaCurvature:
    """Adapt all of the net by steps whose gradients are multiplied by meta-learned matrices (eq. 5 and 7).

    One matrix for each of a convolution's outputs, inputs and positions, two for a linear layer, a factor an element
    for biases and norms; all start as the identity, which is MAML. The matrices are learn2learn's. A learned head's
    have its shape, so the way of training is the way of the test; a head made for each task has one class's for all.
    adapt_norm: whether the gains and shifts of batch norm are adapted too.
    """

    way: int
    lr: float
    first_order: bool
    head_init: HeadInit = "learned"
    neighbours: int = 5
    head_std: float | None = None
    adapt_norm: bool = True

    def __post_init__(self) -> None:
        check_positive("algo.lr", self.lr)

    @property
    def traits(self) -> AlgorithmTraits:
        return AlgorithmTraits(head_init=self.head_init, adapts_body=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        head = task_head(features, self.way, self.head_init, self.neighbours, self.head_std)
        adapts = of_class(nn.ModuleDict({"body": body, "head": head}), self.head_init)
        names = list(adapts) if self.adapt_norm else without_norms(adapts)
        curvature = {n.replace(".", "/"): MetaCurvatureTransform(adapts[n]) for n in names}
        return {"head": head, "curvature": nn.ModuleDict(curvature)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        names = adapted_parameter_names(learner, norms=self.adapt_norm)
        yield learner
        for _ in range(steps):
            gradient = learner.grad(lambda at: loss(at, support), names, self.first_order)
            bent = {n: self._bent(learner, n, g) for n, g in gradient.items()}
            theta = learner.parameters()
            learner = learner.replace({n: theta[n] - self.lr * bent[n] for n in names})
            yield learner

    def _bent(self, learner: Learner, name: str, g: Tensor) -> Tensor:
        classes = self.head_init != "learned" and name.startswith("head.") and g.dim() == 2  # one matrix for all
        bent = learner.part("curvature." + name.replace(".", "/"), g[:, None] if classes else g)
        return bent[:, 0] if classes else bent
