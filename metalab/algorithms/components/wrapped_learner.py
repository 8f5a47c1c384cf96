"""A learner in the place of another one: what stands between a net and who asks it overrides what it changes."""

from collections.abc import Callable

from torch import Tensor

from metalab.core.interfaces import Learner


class WrappedLearner:
    """All is the learner's own, as core.interfaces.Learner has it, until a subclass overrides it."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def __call__(self, x: Tensor) -> Tensor:
        return self.learner(x)

    def features(self, x: Tensor) -> Tensor:
        return self.learner.features(x)

    def part(self, name: str, *args: Tensor) -> Tensor:
        return self.learner.part(name, *args)

    def parameters(self) -> dict[str, Tensor]:
        return self.learner.parameters()

    def buffers(self) -> dict[str, Tensor]:
        return self.learner.buffers()

    def grad(
        self, loss: Callable[[Learner], Tensor], names: list[str] | None = None, first_order: bool = False
    ) -> dict[str, Tensor]:
        return self.learner.grad(loss, names, first_order)

    def replace(self, tensors: dict[str, Tensor]) -> Learner:
        return self.learner.replace(tensors)
