"""LaplacianShot: Ziko, Dolz, Granger, Ben Ayed 2020: nearest prototype, and neighbouring queries of one class."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means, squared_distances
from metalab.algorithms.components.feature_transform import (
    Transform,
    transform_parts,
    transform_without_training,
    transformed,
)
from metalab.algorithms.components.heads import linear_head
from metalab.algorithms.components.prototype_rectification import Weighting, rectified, shifted
from metalab.algorithms.components.query_graph import bound_updates, neighbours
from metalab.config.validate import check_positive
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class LaplacianShot:
    """Train a plain classifier; for a task, minimize the queries' distances and the disagreement of neighbours (eq. 5).

    transform: of the features, as SimpleShot's. neighbours: others that a query is tied to. lam: weight of a neighbour;
    None: 0.7 with one support image a class, else 0.3. updates: of the bound. rectify: how the queries move the
    prototypes (see components/prototype_rectification.py); None: not at all.
    """

    way: int
    transform: Transform
    neighbours: int
    lam: float | None
    updates: int
    rectify: Weighting | None
    scale: float

    def __post_init__(self) -> None:
        counts = {"neighbours": self.neighbours, "updates": self.updates, "scale": self.scale}
        for key, value in counts.items():
            check_positive(f"algo.{key}", value)
        if self.lam is not None and self.lam < 0:
            raise UserError(f"algo.lam={self.lam:g}: expected 0 or more, or null")

    @property
    def traits(self) -> AlgorithmTraits:
        without = transform_without_training(self.transform)
        return AlgorithmTraits(without_training=without, frozen_body=True, transductive=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": linear_head(features, self.way), **transform_parts(features, self.transform)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        known = transformed(learner, support.x, self.transform)
        lam = (0.7 if support.y.shape[0] == self.way else 0.3) if self.lam is None else self.lam

        def model(x: Tensor) -> Tensor:
            asked, prototypes = transformed(learner, x, self.transform), class_means(known, support.y, self.way)
            if self.rectify is not None:
                asked = shifted(known, asked)
                prototypes = rectified(known, support.y, asked, self.way, self.scale, self.rectify)
            near = neighbours(asked, self.neighbours)
            return bound_updates(squared_distances(asked, prototypes), near, lam, self.updates)

        yield model
