"""Meta-curvature: Park, Oliva 2019, sec. 3; with Kronecker factors Meta-KFO: Arnold, Iqbal, Sha 2021, sec. 4."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from metalab.algorithms.components.heads import HeadInit, of_class, start_head, task_head
from metalab.algorithms.components.inner_loop import adapted_parameter_names, without_norms
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.core.learn2learn_import import KroneckerLinear, KroneckerTransform, MetaCurvatureTransform


@dataclass(frozen=True)
class MetaCurvature:
    """Adapt all of the net by steps whose gradients are multiplied by meta-learned matrices (eq. 5 and 7).

    transform: curvature: one matrix for each of a convolution's outputs, inputs and positions, two for a linear layer,
    a factor an element for biases and norms. kronecker: two matrices a weight, one from either side, of a convolution's
    for its inputs and its positions, each the square of what is learned (learn2learn's KroneckerLinear with psd, as its
    ANIL + KFO has it). All start as the identity, which is MAML. The matrices are learn2learn's. A learned head's have
    its shape, so the way of training is the way of the test; a head made for each task has one class's for all.
    adapt_norm: whether the gains and shifts of batch norm are adapted too. body: whether the body adapts; false: the
    head alone, as ANIL has it.
    """

    way: int
    lr: float
    first_order: bool
    head_init: HeadInit = "learned"
    neighbours: int = 5
    head_std: float | None = None
    adapt_norm: bool = True
    transform: Literal["curvature", "kronecker"] = "curvature"
    body: bool = True

    def __post_init__(self) -> None:
        check_positive("algo.lr", self.lr)

    @property
    def traits(self) -> AlgorithmTraits:
        return AlgorithmTraits(head_init=self.head_init, adapts_body=self.body, frozen_body=not self.body)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        head = task_head(features, self.way, self.head_init, self.neighbours, self.head_std)
        net = {"body": body, "head": head} if self.body else {"head": head}
        adapts = of_class(nn.ModuleDict(net), self.head_init)
        names = list(adapts) if self.adapt_norm else without_norms(adapts)
        if odd := [n for n in names if adapts[n].dim() not in (1, 2, 4)]:
            raise UserError(
                f"algo.transform={self.transform} has matrices for layers and convolutions, and none for {odd[0]}"
            )
        made = MetaCurvatureTransform if self.transform == "curvature" else KroneckerTransform(KroneckerLinear)
        curvature = {n.replace(".", "/"): made(adapts[n]) for n in names}
        return {"head": head, "curvature": nn.ModuleDict(curvature)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        names = adapted_parameter_names(learner, ("body.", "head.") if self.body else ("head.",), self.adapt_norm)
        yield learner
        for _ in range(steps):
            gradient = learner.grad(lambda at: loss(at, support), names, self.first_order)
            bent = {n: self._bent(learner, n, g) for n, g in gradient.items()}
            theta = learner.parameters()
            learner = learner.replace({n: theta[n] - self.lr * bent[n] for n in names})
            yield learner

    def _bent(self, learner: Learner, name: str, g: Tensor) -> Tensor:
        classes = self.head_init != "learned" and name.startswith("head.") and g.dim() == 2  # one matrix for all
        bent = learner.part("curvature." + name.replace(".", "/"), (g[:, None] if classes else g).contiguous())
        return bent[:, 0] if classes else bent
