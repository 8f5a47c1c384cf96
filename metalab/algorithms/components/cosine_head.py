"""A classifier by cosines: a head of all training classes, and one that is fitted to a task's support."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means
from metalab.algorithms.components.heads import SGD, Head, fit_head
from metalab.core.interfaces import Batch, Learner, Model


class Cosine(nn.Module):
    """Logits scale * gain_k * cos(w_k, f), with a learned gain a class, as Baseline++'s code's weight norm has it.

    gain: false: there is none.
    """

    def __init__(self, features: int, way: int, scale: float, gain: bool = True) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(way, features)), scale
        self.gain = nn.Parameter(torch.ones(way)) if gain else None

    def forward(self, features: Tensor) -> Tensor:
        head: Head = {"weight": self.weight}
        return self.scale * cosine(head if self.gain is None else head | {"gain": self.gain}, features)


def cosine(head: Head, features: Tensor) -> Tensor:
    """Return the gain, where there is one, times the cosine [N,K] of features [N,D] and each class's weight."""
    cosines = F.normalize(features, dim=1) @ F.normalize(head["weight"], dim=1).T
    return head["gain"] * cosines if "gain" in head else cosines


def fitted_cosines(
    learner: Learner, support: Batch, way: int, scale: float, epochs: int, batch: int, by: SGD, gain: bool = True
) -> Model:
    """Return the model of a cosine head that starts at the class means and is fitted to the frozen features."""
    features = F.normalize(learner.features(support.x).flatten(1), dim=1)
    start = {"weight": class_means(features, support.y, way)}
    start |= {"gain": features.new_ones(way)} if gain else {}

    def logits(head: Head, at: Tensor) -> Tensor:
        return scale * cosine(head, at)

    head = fit_head(logits, start, features, support.y, epochs, batch, by)
    return lambda x: logits(head, learner.features(x).flatten(1))
