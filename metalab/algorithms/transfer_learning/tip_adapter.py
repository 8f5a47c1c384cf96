"""Tip-Adapter: Zhang, Fang, Zhang, Gao, Li, Dai, Qiao, Li 2022: CLIP's class names, and the support as a cache."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.distances import members
from metalab.algorithms.components.heads import full_precision
from metalab.algorithms.components.inner_optimizers import InnerOptimizer
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.models.text_classifier import TextClassifier


@dataclass(frozen=True)
class TipAdapter:
    """Classify by what class names say, scale cos(image, name), and by the support's labels, weighed by likeness.

    An image of features f, of length 1 as all here, has the logits scale f W^T + alpha exp(beta (f F^T - 1)) L, with
    the names' features W, and the support's features F and labels L (eq. 4). alpha: 0 is CLIP without any image.
    Steps within a task are Tip-Adapter-F: AdamW on F by the support's cross-entropy, all of it at each step.
    alpha, beta: the paper's values without a search on validation data, which a support does not have.

    Names need backbone=open_clip and all classes at once, in `metalab predict` or with task=all_way. In training and
    in other episodes nobody says them, and the support decides alone.
    """

    way: int
    alpha: float
    beta: float
    scale: float
    lr: float
    templates: Sequence[str]

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True)

    def __post_init__(self) -> None:
        for key in ("beta", "scale", "lr"):
            check_positive(f"algo.{key}", getattr(self, key))
        if self.alpha < 0:
            raise UserError(f"algo.alpha={self.alpha:g}: expected 0 or more")
        if not self.templates or not all("{}" in each for each in self.templates):
            raise UserError(f"algo.templates={list(self.templates)}: expected sentences with {{}} for the class's name")

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"text": TextClassifier(features, self.templates)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        def units(x: Tensor) -> Tensor:
            return F.normalize(learner.features(x).flatten(1), dim=1)

        known, names = units(support.x), learner.buffers()["text.features"]
        if not self.alpha and not len(names):
            raise UserError(
                "algo.alpha=0 asks class names alone, and none are read here: type task=all_way, or predict"
            )
        labels = members(support.y, self.way).to(known.dtype)

        def logits(keys: Tensor, f: Tensor) -> Tensor:
            cached = self.alpha * (self.beta * (f @ keys.T - 1)).exp() @ labels
            return cached + self.scale * f @ names.T if len(names) else cached

        slope: Callable[[Tensor], Tensor] = torch.func.grad(lambda at: F.cross_entropy(logits(at, known), support.y))
        keys, how = {"keys": known}, InnerOptimizer("adamw", self.lr)
        yield lambda x: logits(known, units(x))
        for _ in range(steps):
            with full_precision(known.device.type):
                keys, how = how.step(keys, {"keys": slope(keys["keys"])})
            yield lambda x, at=keys["keys"]: logits(at, units(x))
