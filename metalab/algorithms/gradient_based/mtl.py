"""Meta-transfer learning: Sun, Liu, Chua, Schiele 2019, sec. 4.2: frozen convolutions that are scaled and shifted."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from metalab.algorithms.components.heads import HeadInit, start_head, task_head
from metalab.algorithms.components.inner_loop import adapted_heads
from metalab.algorithms.components.inner_optimizers import Inner, InnerOptimizer
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class MTL:
    """Meta-learn a factor for each kernel of a pretrained body, a shift for each bias, and the start of the head.

    The convolutions keep the weights that training starts from (train.init=RUN, or backbone.weights); the norms are
    meta-learned, as in the authors' code (pytorch/models/conv2d_mtl.py). A task adapts the head alone, by gradient
    descent on the support (eq. 3). An optimizer's weight decay would draw the factors to 0; reg=l2 leaves them out.
    adapt_norm changes nothing here, for the norms are the body's.
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
        return AlgorithmTraits(head_init=self.head_init, frozen_body=True, keeps_body=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        found = [m for m in body.modules() if isinstance(m, nn.Conv2d) and m.weight.requires_grad]
        if not found:
            raise UserError("algo=mtl scales convolutions, and this backbone has none that learns: type backbone=conv4")
        if any(parametrize.is_parametrized(conv) for conv in found):
            raise UserError("algo=mtl scales weights that stay as they are, and so does backbone.lora: leave one out")
        for conv in found:
            for leaf, kind in (("weight", Scaled), ("bias", Shifted)):
                if (p := getattr(conv, leaf)) is not None:
                    parametrize.register_parametrization(conv, leaf, kind(p.requires_grad_(False)), unsafe=True)
        return {"head": task_head(features, self.way, self.head_init, self.neighbours, self.head_std)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        yield from adapted_heads(learner, support, loss, steps, InnerOptimizer(self.inner, self.lr), self.first_order)


class Scaled(nn.Module):
    """Kernels [O,I,h,w] times a learned factor each, 1 at first."""

    def __init__(self, kernels: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(kernels.new_ones(*kernels.shape[:2], 1, 1))

    def forward(self, kernels: Tensor) -> Tensor:
        return kernels * self.factor


class Shifted(nn.Module):
    """A bias [O] and a learned shift, 0 at first."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(bias))

    def forward(self, bias: Tensor) -> Tensor:
        return bias + self.shift
