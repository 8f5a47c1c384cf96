"""Meta-transfer learning: Sun, Liu, Chua, Schiele 2019, sec. 4.2: frozen convolutions that are scaled and shifted."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from metalab.algorithms.components.heads import HeadInit, start_head, task_head
from metalab.algorithms.components.inner_loop import CachedFeatures, adapted_parameter_names, inner_step
from metalab.algorithms.components.inner_optimizers import Inner, InnerOptimizer
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class MTL:
    """Meta-learn a factor for each kernel of a pretrained body, a shift for each bias, and the start of the head.

    The convolutions keep the weights that training starts from (train.init=RUN, or backbone.weights): they have a
    gradient of 0, and only an optimizer's weight decay would move them. The norms are meta-learned, as in the authors'
    code (pytorch/models/conv2d_mtl.py). A task adapts the head alone, by gradient descent on the support (eq. 3).
    """

    way: int
    lr: float
    first_order: bool
    head_init: HeadInit
    inner: Inner = "sgd"
    neighbours: int = 5
    head_std: float | None = None
    adapt_norm: bool = True

    def __post_init__(self) -> None:
        check_positive("algo.lr", self.lr)

    @property
    def traits(self) -> AlgorithmTraits:
        return AlgorithmTraits(head_init=self.head_init)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        scaled = dict[str, nn.Parameter]()
        for name, p in body.named_parameters():
            key = name.replace(".", "/")
            if p.requires_grad and p.dim() == 4:
                scaled[key] = nn.Parameter(p.new_ones(*p.shape[:2], 1, 1))
                bias = name.removesuffix("weight") + "bias"
                if bias in dict(body.named_parameters()):
                    scaled[bias.replace(".", "/")] = nn.Parameter(torch.zeros_like(body.get_parameter(bias)))
        if not scaled:
            raise UserError("algo=mtl scales convolutions, and this backbone has none that learns: type backbone=conv4")
        head = task_head(features, self.way, self.head_init, self.neighbours, self.head_std)
        return {"head": head, "scaling": nn.ParameterDict(scaled)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(scaled_and_shifted(learner), support, self.way, self.head_init)
        names, how = adapted_parameter_names(learner, ("head.",)), InnerOptimizer(self.inner, self.lr)
        yield learner
        features = learner.features(support.x).flatten(1)

        def on_known(at: Model, batch: Batch) -> Tensor:
            return loss(CachedFeatures(cast(Learner, at), batch.x, features), batch)

        for _ in range(steps):
            learner, how = inner_step(learner, support, on_known, how, names, self.first_order)
            yield learner


def scaled_and_shifted(learner: Learner) -> Learner:
    """Return the learner whose body has the frozen kernels times their factors, and the frozen biases with shifts."""
    theta = learner.parameters()
    by = {n.removeprefix("scaling.").replace("/", "."): p for n, p in theta.items() if n.startswith("scaling.")}
    frozen = {n: theta[f"body.{n}"].detach() for n in by}
    return learner.replace({f"body.{n}": p * by[n] if p.dim() == 4 else p + by[n] for n, p in frozen.items()})
