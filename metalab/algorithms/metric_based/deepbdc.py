"""Meta DeepBDC, deep Brownian distance covariance: Xie, Long, Lv, Wang, Li 2022."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from metalab.algorithms.components.distances import class_means, squared_distances
from metalab.algorithms.components.heads import full_precision
from metalab.algorithms.components.temperature import temperature, temperature_parts
from metalab.config.validate import check_positive
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.models.layers import convert
from metalab.models.relation_module import map_shape

EPS = 1e-5  # beside each squared distance, so that its root has a gradient (their methods/bdc_module.py:77)


@dataclass(frozen=True)
class DeepBDC:
    """Classify by Brownian distance covariance: each image a matrix of how far its channels are apart.

    The matrix has the Euclidean distances of each two channels, seen as vectors of the map's r positions, less the
    means of their rows and columns, plus the mean of all (Szekely and Rizzo 2009). Squared distances are divided by a
    temperature before the root, which is meta-learned and starts at 2 r. A class is the mean of its supports' upper
    triangles. metric: inner, the inner product with it, euclidean, minus the squared distance; None: inner in one shot,
    else euclidean, as theirs (methods/meta_deepbdc.py:53-57). reduce: a 1x1 convolution, batch norm and a ReLU make so
    many channels of the body's; None: they are left.
    """

    way: int
    reduce: int | None
    metric: Literal["inner", "euclidean"] | None

    def __post_init__(self) -> None:
        if self.reduce is not None:
            check_positive("algo.reduce", self.reduce)

    @property
    def traits(self) -> AlgorithmTraits:
        return AlgorithmTraits(frozen_body=True, exports_episode=self.metric is not None)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        channels, side = map_shape(body, features)
        found = temperature_parts(2.0 * side**2, learned=True)
        if self.reduce is not None:
            conv = nn.Conv2d(channels, self.reduce, 1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
            found["reduce"] = convert(nn.Sequential(conv, nn.BatchNorm2d(self.reduce), nn.ReLU()))
        return found

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        classes = class_means(self._triangles(learner, support.x), support.y, self.way)
        inner = self.metric == "inner" or (self.metric is None and support.y.shape[0] == self.way)

        def model(x: Tensor) -> Tensor:
            asked = self._triangles(learner, x)
            return asked @ classes.T if inner else -squared_distances(asked, classes)

        yield model

    def _triangles(self, learner: Learner, x: Tensor) -> Tensor:
        """Return the upper triangles [N,D(D+1)/2] of the images' matrices."""
        maps = learner.features(x)
        rows = (maps if self.reduce is None else learner.part("reduce", maps)).flatten(2)  # [N,D,P]
        with full_precision(rows.device.type):
            centred = distance_covariance(rows, temperature(learner, 1.0, learned=True))
        first, second = torch.triu_indices(rows.shape[1], rows.shape[1], device=rows.device)
        return centred[:, first, second]


def distance_covariance(rows: Tensor, divided_by: Tensor | float) -> Tensor:
    """Return the doubly centred distances [N,D,D] of each two channels of rows [N,D,P]."""
    products = rows @ rows.mT
    squares = products.diagonal(dim1=1, dim2=2)
    apart = (squares[:, :, None] + squares[:, None] - 2 * products).clamp(min=0) / divided_by
    roots = (apart + EPS).sqrt()
    return roots - roots.mean(1, keepdim=True) - roots.mean(2, keepdim=True) + roots.mean((1, 2), keepdim=True)
