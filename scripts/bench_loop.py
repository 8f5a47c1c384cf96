"""The loop a user would write with learn2learn at its best: its classes, its CNN4, nothing read back in the loop."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.core.interfaces import Episode
from metalab.core.learn2learn_import import learn2learn


def cnn4(net: nn.Module, way: int, filters: int, channels: int, features: int) -> Any:
    """Return learn2learn's CNN4 with the weights of our conv4."""
    made = learn2learn.vision.models.cnn4.CNN4(
        way, hidden_size=filters, channels=channels, max_pool=True, embedding_size=features
    )
    ours = dict(net.named_parameters())
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parts = name.split(".")
            layer = {"conv": 0, "normalize": 1}.get(parts[-2])
            mine = f"head.{parts[-1]}" if layer is None else f"body.{parts[-3]}.{layer}.{parts[-1]}"
            if mine in ours:  # a metric method has no head
                parameter.copy_(ours[mine])
    return made.to(next(net.parameters()).device)


def user_loop(algo: str, net: Any, episodes: Episode, lr: float, steps: int, evaluating: bool) -> Callable[[], Tensor]:
    """Return a function that puts the meta-gradient into net's .grad and returns the mean loss.

    evaluating: it only returns the loss, and keeps nothing for an outer gradient.
    """
    (x, y, _), (query, target, _) = episodes
    tasks, support = y.shape
    outer = torch.no_grad if evaluating else nullcontext
    meta: Any = None
    if algo in ("maml", "fomaml"):
        meta = learn2learn.algorithms.MAML(net, lr=lr, first_order=evaluating or algo == "fomaml")
    elif algo == "anil":
        meta = learn2learn.algorithms.MAML(net.classifier, lr=lr, first_order=evaluating)

    def whole(t: int) -> Tensor:
        learner = meta.clone()
        for _ in range(steps):
            learner.adapt(F.cross_entropy(learner(x[t]), y[t]))
        with outer():
            return learner(query[t])

    def head(t: int) -> Tensor:
        learner = meta.clone()
        with outer():
            features = net.features(torch.cat([x[t], query[t]]))  # one pass, as its example has it
        for _ in range(steps):
            learner.adapt(F.cross_entropy(learner(features[:support]), y[t]))
        with outer():
            return learner(features[support:])

    def metric(t: int) -> Tensor:
        with outer():
            features = net.features(torch.cat([x[t], query[t]]))
            model = learn2learn.nn.PrototypicalClassifier(features[:support], y[t], distance="euclidean")
            return model(features[support:])

    one = {"anil": head, "protonet": metric}.get(algo, whole)

    def run() -> Tensor:
        torch.backends.cudnn.benchmark = True
        net.zero_grad()
        losses = []
        for t in range(tasks):
            loss = F.cross_entropy(one(t), target[t]) / tasks
            if not evaluating:
                loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    return run
