"""Feature extraction: Tian, Wang, Krishnan, Tenenbaum, Isola 2020, sec. 3.2: logistic regression on frozen features."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.heads import linear_head
from metalab.algorithms.components.solvers.cosine_regression import cosine_regression
from metalab.algorithms.components.solvers.logistic_regression import chosen_c, logistic_regression
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model


@dataclass(frozen=True)
class FeatureExtraction:
    """Train body and head on all training classes; for a task, fit a logistic regression to the unit features.

    C: weight of the data against |W|^2 / 2, as in scikit-learn, whose solver does not run under vmap nor on a GPU;
    null: the one of a grid under which images of the support are predicted best from the others, for which no
    validation data are asked (of one image a class there is nothing to choose by, and C is 1). iterations: of
    Nesterov's accelerated gradient, with the step that always descends. scale: in the place of a logistic regression
    fit scaled cosines of the features and weights of length 1, with C against the weights' distance to the class means.
    """

    way: int
    C: float | None
    iterations: int
    scale: float | None = None

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True)

    def __post_init__(self) -> None:
        if self.C is not None:
            check_positive("algo.C", self.C)
        if self.scale is not None:
            check_positive("algo.scale", self.scale)
        check_positive("algo.iterations", self.iterations)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {"head": linear_head(features, self.way)}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        def units(x: Tensor) -> Tensor:
            return F.normalize(learner.features(x).flatten(1), dim=1)

        known = units(support.x)
        fit = logistic_regression if self.scale is None else partial(cosine_regression, scale=self.scale)
        c = chosen_c(known, support.y, self.way, self.iterations, fit) if self.C is None else self.C
        weight, bias = fit(known, support.y, self.way, c, self.iterations)
        yield lambda x: units(x) @ weight.T + bias
