"""A learner whose inner gradients are taken in another way; an objective decides how."""

from collections.abc import Callable
from typing import cast

from torch import Tensor

from metalab.algorithms.components.wrapped_learner import WrappedLearner
from metalab.core.interfaces import Learner

# learner, loss, names, first_order, as of Learner.grad -> the gradient by name
Gradient = Callable[[Learner, Callable[[Learner], Tensor], list[str] | None, bool], dict[str, Tensor]]


def with_gradient(learner: Learner, gradient: Gradient) -> Learner:
    """Return the learner with this in the place of its `grad`, after every inner step too."""
    return cast(Learner, WithGradient(learner, gradient))


class WithGradient(WrappedLearner):
    """What with_gradient returns: all but `grad` is the learner's own."""

    def __init__(self, learner: Learner, gradient: Gradient) -> None:
        super().__init__(learner)
        self.gradient = gradient

    def grad(
        self, loss: Callable[[Learner], Tensor], names: list[str] | None = None, first_order: bool = False
    ) -> dict[str, Tensor]:
        return self.gradient(self.learner, loss, names, first_order)

    def replace(self, tensors: dict[str, Tensor]) -> Learner:
        return with_gradient(self.learner.replace(tensors), self.gradient)
