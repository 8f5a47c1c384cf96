"""Mean and covariance of each training class's features, measured on a trained net before it is evaluated."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from metalab.core.typed_torch import triangle


class BaseStatistics(nn.Module):
    """Hold the statistics of B classes; none (B = 0) until they are measured, and in no checkpoint.

    root: its product root_b^T root_b is the covariance of class b, as numpy.cov has it. With normal numbers z [m,R],
    z @ root_b has that covariance: no matrix is factored for it. nonnegative: features below 0 are a mistake.
    """

    mean: Tensor  # [B,D]
    root: Tensor  # [B,R,D], R = min(images of the largest class, D)

    def __init__(self, features: int, nonnegative: bool) -> None:
        super().__init__()
        self.nonnegative = nonnegative
        self.register_buffer("mean", torch.zeros(0, features), persistent=False)
        self.register_buffer("root", torch.zeros(0, 0, features), persistent=False)

    @torch.no_grad()
    def measure(self, classes: Iterable[Tensor]) -> None:
        """Take the statistics of the features [n,D] of each class."""
        means: list[Tensor] = []
        roots: list[Tensor] = []
        for f in classes:
            means.append(f.mean(0))
            centered = (f - means[-1]) / max(len(f) - 1, 1) ** 0.5
            roots.append(triangle(centered) if len(f) > f.shape[1] else centered)
        rows = max(len(root) for root in roots)
        self.mean = torch.stack(means)
        self.root = torch.stack([torch.cat([r, r.new_zeros(rows - len(r), r.shape[1])]) for r in roots])
