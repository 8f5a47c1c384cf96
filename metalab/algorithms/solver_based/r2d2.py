"""R2-D2, ridge regression differentiable discriminator: Bertinetto, Henriques, Torr, Vedaldi 2019, sec. 3."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor, nn

from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.core.typed_torch import solve_unchecked


@dataclass(frozen=True)
class R2D2:
    """Classify by ridge regression onto the support's one-hot labels, solved in closed form (eq. 4 and 6).

    Its lambda, and the scale and bias that make logits of its outputs, are meta-learned; lam and scale: their starts,
    above 0. It has no inner step, and it takes any way. Their code (bertinetto/r2d2: fewshots/models/r2d2.py) has
    learn_lam: false; ones: true, a column of ones joins the features, for a bias that the ridge sees; and mean: true,
    squares are averaged over the N supports (rows of features and labels over sqrt(N)), so that lambda counts N times.
    """

    way: int
    lam: float
    scale: float
    learn_lam: bool = True
    ones: bool = False
    mean: bool = False

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True)

    def __post_init__(self) -> None:
        check_positive("algo.lam", self.lam)
        check_positive("algo.scale", self.scale)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        start = {"scale": self.scale, "bias": 0.0}
        if self.learn_lam:
            start = {"log_lam": log(self.lam), **start}  # an exponential stays above 0
        return {"ridge": nn.ParameterDict({name: torch.tensor(value) for name, value in start.items()})}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learned = {n.removeprefix("ridge."): p for n, p in learner.parameters().items() if n.startswith("ridge.")}
        features = self._columns(learner.features(support.x))
        lam = learned["log_lam"].exp() if self.learn_lam else self.lam
        weight = ridge(features, support.y, self.way, lam * len(features) if self.mean else lam)

        def model(x: Tensor) -> Tensor:
            asked = self._columns(learner.features(x)).to(weight.dtype)
            with torch.autocast(weight.device.type, enabled=False):
                return learned["scale"] * (asked @ weight) + learned["bias"]

        yield model

    def _columns(self, features: Tensor) -> Tensor:
        """Return features [N,...] as [N,D], with a column of ones where those are wanted."""
        flat = features.flatten(1)
        return torch.cat([flat, torch.ones_like(flat[:, :1])], 1) if self.ones else flat


def ridge(features: Tensor, y: Tensor, way: int, lam: Tensor | float) -> Tensor:
    """Return W [D,K] with the least |F W - Y|^2 + lam |W|^2, F the features [N,D]; float32 at least, autocast or not.

    The Woodbury form, a system of N equations in the place of D, only where N is smaller.
    """
    with torch.autocast(features.device.type, enabled=False):
        f = features.to(torch.promote_types(features.dtype, torch.float32))
        onto = (y[:, None] == torch.arange(way, device=y.device)).to(f.dtype)
        small = f.shape[0] < f.shape[1]
        gram = f @ f.T if small else f.T @ f
        system = gram + lam * torch.eye(gram.shape[0], dtype=f.dtype, device=f.device)
        # the system is positive definite, so nothing has to be read back to check it
        return f.T @ solve_unchecked(system, onto) if small else solve_unchecked(system, f.T @ onto)
