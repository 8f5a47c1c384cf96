"""CovaMNet: Li, Xu, Huo, Wang, Gao, Luo 2019, distribution consistency by local covariances."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.distances import members
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.models.relation_module import map_shape


@dataclass(frozen=True)
class CovaMNet:
    """Classify by how well the query's local descriptors follow each class's covariance (sec. 3).

    The descriptors are the h x w vectors of a feature map, so a map of one position says nothing in one shot. A class's
    covariance is that of all its supports' descriptors; a query's similarity to it is x^T cov x for each of its
    descriptors x, and a learned weight for each position, 1 to start with, joins them to a logit. unit: what of a query
    has length 1, each descriptor, or, as in their code (models/network.py:234), each channel over all positions. Their
    code has dropout before the joining, and a leaky ReLU, which changes nothing: the similarity is never negative.
    """

    way: int
    unit: Literal["descriptor", "channel"] = "descriptor"

    traits: ClassVar = AlgorithmTraits(frozen_body=True, exports_episode=True)

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        _, side = map_shape(body, features)
        joined = nn.Linear(side**2, 1, bias=False)
        nn.init.ones_(joined.weight)
        return {"joined": joined}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        known = learner.features(support.x).flatten(2).mT  # [M,P,D]
        if (
            known.shape[1] == 1 and known.shape[0] == self.way
        ):  # in this order torch.export asks nothing of the supports
            raise UserError(
                "algo=covamnet in one shot needs a feature map: of one descriptor a class there is no covariance; type "
                "backbone=conv4_relation or another that keeps a map"
            )
        weight = members(support.y, self.way).to(known.dtype)  # [M,K]
        count = weight.sum(0)[:, None, None] * known.shape[1]
        mean = torch.einsum("mk,mpd->kd", weight, known)[:, None] / count
        centred = (known[:, None] - mean) * weight[:, :, None, None]  # [M,K,P,D]
        covariance = torch.einsum("mkpd,mkpe->kde", centred, centred) / (count - 1).clamp(min=1)

        def model(x: Tensor) -> Tensor:
            over = -1 if self.unit == "descriptor" else 1
            asked = F.normalize(learner.features(x).flatten(2).mT, dim=over)  # [N,P,D]
            alike = torch.einsum("npd,kde,npe->nkp", asked, covariance, asked)
            return learner.part("joined", alike)[..., 0]

        yield model
