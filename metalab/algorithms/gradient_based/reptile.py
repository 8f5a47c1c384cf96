"""Reptile: Nichol, Achiam, Schulman 2018, algorithm 2 (batched), with the inner Adam of their code (beta1 = 0)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metalab.algorithms.components.heads import HeadInit, of_class, start_head, task_head
from metalab.algorithms.components.inner_loop import adapted_parameter_names
from metalab.algorithms.components.inner_optimizers import root
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


class Moments(nn.Module):
    """Adam's second moments of each adapted parameter and its step count, as buffers that outlive a task."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        for name, value in parameters.items():
            self.register_buffer(name.replace(".", "/"), torch.zeros_like(value))


@dataclass(frozen=True)
class Reptile:
    """Adapt all of the net by Adam on mini-batches of the support; the meta-step moves theta towards the result.

    The second moments persist across tasks: every task of a meta-batch starts from the stored ones, and their mean
    over the meta-batch is stored (their code runs one task after another). batch: images an inner step; the support
    is walked through in the sampler's shuffled order, around and around, so an image comes again only after all have.
    A head made for each task has moments that its classes share, the mean of theirs.
    """

    way: int
    lr: float
    beta2: float
    batch: int
    head_init: HeadInit = "learned"
    neighbours: int = 5

    def __post_init__(self) -> None:
        check_positive("algo.lr", self.lr)
        check_positive("algo.batch", self.batch)
        if not 0 <= self.beta2 < 1:
            raise UserError(f"algo.beta2={self.beta2:g}: expected a number from 0 up to but not including 1")

    @property
    def traits(self) -> AlgorithmTraits:
        return AlgorithmTraits(head_init=self.head_init, adapts_body=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        head = task_head(features, self.way, self.head_init, self.neighbours)
        adapts = of_class(nn.ModuleDict({"body": body, "head": head}), self.head_init)
        return {"head": head, "moments": Moments(adapts)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        learner = start_head(learner, support, self.way, self.head_init)
        names = adapted_parameter_names(learner)
        images = support.y.shape[0]
        yield learner
        for step in range(steps):
            walk = torch.arange(step * self.batch, (step + 1) * self.batch, device=support.y.device) % images
            chosen = Batch(support.x[walk], support.y[walk], support.unlabelled)
            learner = self._adam(learner, learner.grad(lambda at, b=chosen: loss(at, b), names, first_order=True))
            yield learner

    def _adam(self, learner: Learner, gradient: dict[str, Tensor]) -> Learner:
        theta, stored = learner.parameters(), learner.buffers()
        count = stored["moments.count"] + 1
        new = {"moments.count": count}
        for name, g in gradient.items():
            moment = "moments." + name.replace(".", "/")
            shared = name.startswith("head.") and self.head_init != "learned"
            square = g.square().mean(0, keepdim=True) if shared else g.square()
            new[moment] = self.beta2 * stored[moment] + (1 - self.beta2) * square
            unbiased = new[moment] / (1 - self.beta2**count)
            new[name] = theta[name] - self.lr * g / (root(unbiased) + 1e-8)
        return learner.replace(new)
