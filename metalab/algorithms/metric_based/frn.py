"""FRN, feature map reconstruction networks: Wertheimer, Tang, Hariharan 2021."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.components.distances import members
from metalab.algorithms.components.heads import full_precision
from metalab.core.errors import UserError
from metalab.core.interfaces import AlgorithmTraits, Batch, Learner, Loss, Model
from metalab.core.typed_torch import solve_unchecked


@dataclass(frozen=True)
class FRN:
    """Classify by how well a query's feature map is rebuilt from each class's, by ridge regression in closed form.

    With S the descriptors of a class's supports [k r,D] and Q the query's [r,D], Q' = rho Q (S'S + lam I)^-1 S'S, lam =
    k r / D exp(alpha) and rho = exp(beta); the logit is -scale times the mean over the r positions of |Q'_p - Q_p|^2
    (their models/FRN.py:57-107). alpha, beta and scale are meta-learned and start at 0, 0 and 1. divided: features are
    divided by sqrt(D), as theirs of ResNet-12.

    auxiliary: weight of the sum over all pairs of two classes of |S_i S_j'|^2 in training, which wants their
    descriptors at right angles. unit: what has length 1 in it: each descriptor, as in the paper, or the whole support,
    as in their code (trainers/frn_train.py:12), which has each pair once and not, as the paper, in both orders.
    """

    way: int
    divided: bool
    auxiliary: float
    unit: Literal["support", "descriptor"]

    traits: ClassVar = AlgorithmTraits(without_training={}, frozen_body=True)

    def __post_init__(self) -> None:
        if self.auxiliary < 0:
            raise UserError(f"algo.auxiliary={self.auxiliary:g}: expected 0 or more")

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        start = {"alpha": 0.0, "beta": 0.0, "scale": 1.0}
        return {"ridge": nn.ParameterDict({name: torch.tensor(value) for name, value in start.items()})}

    def adapt(self, learner: Learner, support: Batch, loss: Loss, steps: int) -> Iterator[Model]:
        alpha, beta, scale = (learner.parameters()[f"ridge.{name}"] for name in ("alpha", "beta", "scale"))
        known = self._descriptors(learner.features(support.x))
        with full_precision(known.device.type):
            products, images = self._of_classes(known, support.y)  # S'S [K,D,D]
            eye = torch.eye(known.shape[2], dtype=known.dtype, device=known.device)
            lam = images * known.shape[1] / known.shape[2] * alpha.exp() + 1e-6
            off = beta.exp() * solve_unchecked(products + lam[:, None, None] * eye, products) - eye  # Q' - Q = Q off
            errors = off @ off.mT

        def model(x: Tensor) -> Tensor:
            asked = self._descriptors(learner.features(x))
            with full_precision(asked.device.type):  # the squares' sum is the trace of Q'Q off off'
                return -scale * torch.einsum("nde,kde->nk", asked.mT @ asked, errors) / asked.shape[1]

        yield model

    def auxiliary_loss(self, learner: Learner, known: Tensor, y: Tensor, asked: Tensor, labels: Tensor) -> Tensor:
        rows = self._descriptors(known)
        each = self.unit == "descriptor"
        with full_precision(rows.device.type):  # a small difference of large sums
            units = F.normalize(rows, dim=2) if each else rows / rows.square().sum().sqrt()
            products, _ = self._of_classes(units, y)
            both = products.sum(0).square().sum() - products.square().sum()  # |S_i S_j'|^2 is <S_i'S_i, S_j'S_j>
        return both if each else both / 2

    def _descriptors(self, maps: Tensor) -> Tensor:
        """Return the descriptors [N,P,D] of feature maps [N,D,h,w]."""
        rows = maps.flatten(2).mT
        return rows / rows.shape[2] ** 0.5 if self.divided else rows

    def _of_classes(self, rows: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return each class's S'S [K,D,D] of descriptors [M,P,D], and how many images it has [K]."""
        of = members(y, self.way).to(rows.dtype)
        return torch.einsum("mk,mde->kde", of, rows.mT @ rows), of.sum(0)
