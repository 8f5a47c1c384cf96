"""What gradient-based algorithms share: the parameters a task adapts, one step of SGD, and where the head starts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.descent import Descent
from metalab.errors import UserError
from metalab.interfaces import Batch, Learner, Loss

HeadInit = Literal["learned", "zero", "prototype"]


def positive(key: str, value: float) -> None:
    """Raise UserError unless a hyper-parameter is above 0."""
    if not value > 0:
        raise UserError(f"{key}={value:g}: expected a number above 0")


def adapted(learner: Learner, prefixes: tuple[str, ...] = ("body.", "head.")) -> list[str]:
    """Return the names of the parameters that the inner loop changes; learned rates and the like stay."""
    return [name for name in learner.parameters() if name.startswith(prefixes)]


def descend(
    learner: Learner, batch: Batch, loss: Loss, how: Descent, names: list[str], first_order: bool
) -> tuple[Learner, Descent]:
    """Take one inner step on the named parameters; with sgd theta' = theta - lr grad L(theta) (MAML, eq. 1)."""
    gradient = learner.grad(lambda at: loss(at, batch), names, first_order)
    stepped, how = how.step(learner.parameters(), gradient)
    return learner.replace(stepped), how


def class_means(features: Tensor, y: Tensor, way: int) -> Tensor:
    """Return the mean [K,D] of the features [N,D] of each class."""
    member = (y[:, None] == torch.arange(way, device=y.device)).to(features.dtype)  # [N,K]; one_hot fails under vmap
    return (member / member.sum(0)).T @ features


def linear_head(features: int, way: int) -> nn.Linear:
    """Return the classifier a gradient-based algorithm adapts: Xavier weights and no bias, as the body's."""
    head = nn.Linear(features, way)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def start_head(learner: Learner, support: Batch, way: int, init: HeadInit) -> Learner:
    """Return the learner with the head it starts the task with; zero and prototype allow any way.

    prototype: the linear layer that equals ProtoNet's logits, w_k = 2 c_k and b_k = -|c_k|^2
    (Proto-MAML, Triantafillou et al. 2020, sec. 3).
    """
    if init == "learned":
        return learner
    features = learner.features(support.x).flatten(1)
    if init == "zero":
        weight, bias = features.new_zeros(way, features.shape[1]), features.new_zeros(way)
    else:
        means = class_means(features, support.y, way)
        weight, bias = 2 * means, -means.square().sum(1)
    return learner.replace({"head.weight": weight, "head.bias": bias})


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as torch.optim.SGD has it."""

    lr: float
    momentum: float
    dampening: float
    weight_decay: float

    def __post_init__(self) -> None:
        positive("algo.lr", self.lr)
        for key, value in {"momentum": self.momentum, "dampening": self.dampening}.items():
            if not 0 <= value <= 1:
                raise UserError(f"algo.{key}={value:g}: expected 0 to 1")
        if self.weight_decay < 0:
            raise UserError(f"algo.weight_decay={self.weight_decay:g}: expected 0 or more")


Head = dict[str, Tensor]  # a classifier's weights, by name


def fit_head(
    logits: Callable[[Head, Tensor], Tensor],
    head: Head,
    features: Tensor,
    y: Tensor,
    epochs: int,
    batch: int,
    by: SGD,
) -> Head:
    """Return the head after so many epochs of SGD on frozen features [N,D], in batches in the order given.

    logits(head, features) is [N,K]. The update is torch.optim.SGD's, weight decay and dampening included.
    """
    slope = torch.func.grad(lambda at, f, t: F.cross_entropy(logits(at, f), t))
    velocity: Head | None = None
    for _ in range(epochs):
        for f, t in zip(features.split(batch), y.split(batch), strict=True):
            gradient = slope(head, f, t)
            gradient = {n: g + by.weight_decay * head[n] for n, g in gradient.items()}
            if velocity is None:
                velocity = gradient
            else:
                velocity = {n: by.momentum * velocity[n] + (1 - by.dampening) * g for n, g in gradient.items()}
            head = {n: w - by.lr * velocity[n] for n, w in head.items()}
    return head
