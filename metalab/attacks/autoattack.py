"""The strong evaluation attack: the four of AutoAttack (Croce & Hein 2020), and APGD on DLR besides."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from metalab.attacks.apgd import APGD
from metalab.attacks.base import Attack, Iterate, Norm, Reduction, no_reduction
from metalab.attacks.fab import FAB
from metalab.attacks.square import Square
from metalab.core.interfaces import Model


@dataclass(frozen=True)
class AutoAttack:
    """Run APGD on cross-entropy, APGD on DLR, APGD and FAB towards each other class, and Square.

    DLR needs three classes and its targeted form four; the margin loss stands in where there are fewer. queries 0:
    without Square. A support is attacked without FAB, which looks for single images. eps in [0, 1].
    """

    eps: float
    norm: Norm
    steps: int
    restarts: int
    targets: int
    queries: int

    def __post_init__(self) -> None:
        self.parts()

    def parts(self) -> list[Attack]:
        """Return the attacks it runs, in their order."""
        loss = APGD(self.eps, self.norm, self.steps, self.restarts, "cross_entropy", 0)
        ratio = APGD(self.eps, self.norm, self.steps, self.restarts, "dlr", 0)
        other: list[Attack] = []
        if self.targets:
            other = [
                APGD(self.eps, self.norm, self.steps, self.restarts, "dlr", self.targets),
                FAB(self.eps, self.norm, self.steps, self.restarts, self.targets),
            ]
        square = [Square(self.eps, self.norm, self.queries, 0.8)] if self.queries else []
        return [loss, ratio, *other, *square]

    def iterates(self, model: Model, x: Tensor, y: Tensor, reduction: Reduction = no_reduction) -> Iterator[Iterate]:
        for attack in self.parts():
            if reduction is no_reduction or not isinstance(attack, FAB):
                yield from attack.iterates(model, x, y, reduction)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        return self.parts()[0](model, x, y)
