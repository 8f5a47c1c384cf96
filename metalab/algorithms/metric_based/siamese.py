"""Siamese networks: Koch, Zemel, Salakhutdinov 2015; the contrastive loss: Hadsell, Chopra, LeCun 2006."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.distances import best_of_class, cosines, distances
from metalab.algorithms.components.pair_losses import PairLoss
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.core.typed_torch import broadcast_tensors

DISTANCES = {"contrastive": ("euclidean", "learned"), "cosine": ("cosine",), "verification": ("weighted", "learned")}


@dataclass(frozen=True)
class Siamese:
    """Learn from pairs whether two images are of one class; classify by the support image most alike.

    distance: Euclidean, cosine, Koch's weighted L1 of the two embeddings, or learned by a dense net on both joined
    (both orders are averaged: a distance is symmetric). loss: see PairLoss. margin: from where on a pair of two
    classes costs nothing, a distance (contrastive; None: 5) or a cosine (None: 0.5). balanced: the pairs of one class
    weigh as much as those of two together, as Koch draws them (sec. 4.1).
    """

    way: int
    loss: Literal["contrastive", "cosine", "verification"]
    distance: Literal["euclidean", "cosine", "weighted", "learned"]
    margin: float | None
    hidden: int
    balanced: bool

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES[self.loss]:
            takes = " or ".join(f"algo.distance={name}" for name in DISTANCES[self.loss])
            raise UserError(f"algo.loss={self.loss} does not go with algo.distance={self.distance}; it takes {takes}")
        if self.hidden < 1:
            raise UserError(f"algo.hidden={self.hidden}: expected 1 unit or more")
        self.pair_loss()

    @property
    def traits(self) -> AlgorithmTraits:
        without: dict[str, float] | None = {} if self.distance in ("euclidean", "cosine") else None
        return AlgorithmTraits(without_training=without, frozen_body=True, exports_episode=True)

    def pair_loss(self) -> PairLoss:
        return PairLoss(self.loss, self.margin, self.balanced)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        if self.distance == "weighted":
            return {"alike": nn.Linear(features, 1)}
        joined = nn.Linear(2 * features, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1)
        return {"alike": nn.Sequential(*joined)} if self.distance == "learned" else {}

    def pair_scores(self, learner: Learner, a: Tensor, b: Tensor) -> Tensor:
        """Return how much alike each embedding of a [N,D] and each of b [M,D] are, [N,M]; a distance is negative."""
        if self.distance == "euclidean":
            return -distances(a, b)
        if self.distance == "cosine":
            return cosines(a, b)
        if self.distance == "weighted":
            return learner.part("alike", (a[:, None] - b).abs())[..., 0]
        left, right = broadcast_tensors(a[:, None], b)
        one, other = (learner.part("alike", torch.cat(pair, -1)) for pair in ((left, right), (right, left)))
        score = (one + other)[..., 0] / 2
        return -F.softplus(-score) if self.loss == "contrastive" else score

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        known = learner.features(support.x).flatten(1)
        yield lambda x: best_of_class(
            self.pair_scores(learner, learner.features(x).flatten(1), known), support.y, self.way
        )
