"""Meta-curvature: Park, Oliva 2019, sec. 3."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from metalab._learn2learn import MetaCurvatureTransform
from metalab.ingredients.heads import linear_head
from metalab.ingredients.inner import adapted, positive
from metalab.interfaces import Batch, Learner, Loss, Model


@dataclass(frozen=True)
class MetaCurvature:
    """Adapt all of the net by steps whose gradients are multiplied by meta-learned matrices (eq. 5 and 7).

    One matrix for each of a convolution's outputs, inputs and positions, two for a linear layer, a factor an element
    for biases and norms; all start as the identity, which is MAML. The matrices are learn2learn's. The head's have
    its shape, so the way of training is the way of the test.
    """

    way: int
    lr: float
    first_order: bool

    def __post_init__(self) -> None:
        positive("algo.lr", self.lr)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        head = linear_head(features, self.way)
        adapts = nn.ModuleDict({"body": body, "head": head})
        curvature = {n.replace(".", "/"): MetaCurvatureTransform(p) for n, p in adapts.named_parameters()}
        return {"head": head, "curvature": nn.ModuleDict(curvature)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        names = adapted(learner)
        yield learner
        for _ in range(steps):
            gradient = learner.grad(lambda at: loss(at, support), names, self.first_order)
            bent = {n: learner.part("curvature." + n.replace(".", "/"), g) for n, g in gradient.items()}
            theta = learner.parameters()
            learner = learner.replace({n: theta[n] - self.lr * bent[n] for n in names})
            yield learner
