"""The classifier behind the body: where it starts a task, one made of the support itself, and one that is fitted."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means, members, squared_distances
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Learner
from metalab.core.typed_torch import split

HeadInit = Literal["learned", "zero", "random", "prototype", "knn"]


def task_head(features: int, way: int, init: HeadInit, neighbours: int, std: float | None = None) -> nn.Module:
    """Return the classifier that start_head starts: linear, or for knn the vote of so many neighbours."""
    check_positive("algo.neighbours", neighbours)
    return KNNHead(features, way, neighbours) if init == "knn" else linear_head(features, way, std)


def linear_head(features: int, way: int, std: float | None = None) -> nn.Linear:
    """Return the classifier a gradient-based algorithm adapts: no bias, and Xavier weights as the body's.

    std: deviation of normal weights in their place; MAML's code starts its head on Omniglot at N(0, 1) (maml.py:206).
    """
    head = nn.Linear(features, way)
    if std is None:
        nn.init.xavier_uniform_(head.weight)
    else:
        check_positive("algo.head_std", std)
        nn.init.normal_(head.weight, std=std)
    nn.init.zeros_(head.bias)
    return head


def start_head(learner: Learner, support: Batch, way: int, init: HeadInit) -> Learner:
    """Return the learner with the head it starts the task with; all but learned allow any way.

    random: Xavier weights, drawn anew for each task. prototype: the linear layer that equals ProtoNet's logits, w_k =
    2 c_k and b_k = -|c_k|^2 (Proto-MAML, Triantafillou et al. 2020, sec. 3). knn: the support itself (Neighbours).
    """
    if init == "learned":
        return learner
    features = learner.features(support.x).flatten(1)
    if init == "knn":
        return learner.replace({"head.keys": features, "head.votes": members(support.y, way).to(features.dtype)})
    weight, bias = features.new_zeros(way, features.shape[1]), features.new_zeros(way)
    if init == "random":
        weight = (6 / sum(weight.shape)) ** 0.5 * (2 * torch.rand_like(weight) - 1)
    if init == "prototype":
        means = class_means(features, support.y, way)
        weight, bias = 2 * means, -means.square().sum(1)
    return learner.replace({"head.weight": weight, "head.bias": bias})


def of_class(net: nn.Module, init: HeadInit) -> dict[str, Tensor]:
    """Return the parameters of a net of body and head, of a head that is made for each task the first class's alone.

    What is learned beside such a head, rates and the like, is one class's for all, so that any way will do.
    """
    whole = {n: p for n, p in net.named_parameters() if p.requires_grad}
    return {n: p[:1] if n.startswith("head.") and init != "learned" else p for n, p in whole.items()}


class KNNHead(nn.Module):
    """k nearest neighbours as a head: its weights are the support's features, which inner steps may move.

    forward: features [N,D] -> logits [N,K], for each class the logarithm of the sum of exp(-squared distance) over
    those of its supports that are among the k nearest; softmax makes the soft vote of them. A class with none keeps its
    nearest, which is further than all k: it never wins by it, and has a gradient. Without a task it knows nothing.
    """

    def __init__(self, features: int, way: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.keys = nn.Parameter(torch.zeros(way, features))  # [M,D]
        self.register_buffer("votes", torch.eye(way))  # [M,K], 1 for the class of each

    def forward(self, features: Tensor) -> Tensor:
        scores, member = -squared_distances(features, self.keys), self.get_buffer("votes").bool()
        kth = scores.topk(min(self.k, scores.shape[1]), dim=1).values[:, -1:]
        best = torch.where(member, scores[:, :, None], -torch.inf).amax(1)  # [N,K]
        own = torch.where(member, best[:, None], torch.inf).amin(2)  # [N,M], the best of each support's class
        kept = scores >= torch.minimum(kth, own)
        return torch.where(member & kept[:, :, None], scores[:, :, None], -torch.inf).logsumexp(1)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as torch.optim.SGD has it."""

    lr: float
    momentum: float
    dampening: float
    weight_decay: float

    def __post_init__(self) -> None:
        check_positive("algo.lr", self.lr)
        for key, value in {"momentum": self.momentum, "dampening": self.dampening}.items():
            if not 0 <= value <= 1:
                raise UserError(f"algo.{key}={value:g}: expected 0 to 1")
        if self.weight_decay < 0:
            raise UserError(f"algo.weight_decay={self.weight_decay:g}: expected 0 or more")


Head = dict[str, Tensor]  # a classifier's weights, by name


def full_precision(kind: str) -> AbstractContextManager[object]:
    """Return the context in which a device of this kind computes in its tensors' own type."""
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


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

    logits(head, features) is [N,K]. The update is torch.optim.SGD's, weight decay and dampening included. It is made
    in the features' type, also where the net computes in a smaller one.
    """

    def loss(at: Head, f: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(logits(at, f), t)

    slope: Callable[[Head, Tensor, Tensor], Head] = torch.func.grad(loss)
    velocity: Head | None = None
    for _ in range(epochs):
        for f, t in zip(split(features, batch), split(y, batch), strict=True):
            with full_precision(features.device.type):
                gradient = slope(head, f, t)
            gradient = {n: g + by.weight_decay * head[n] for n, g in gradient.items()}
            if velocity is None:
                velocity = gradient
            else:
                velocity = {n: by.momentum * velocity[n] + (1 - by.dampening) * g for n, g in gradient.items()}
            head = {n: w - by.lr * velocity[n] for n, w in head.items()}
    return head
