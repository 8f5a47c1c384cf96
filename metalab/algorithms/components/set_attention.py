"""A layer from a set of features to another, each of which looks at all (Vaswani et al. 2017, sec. 3.2)."""

import torch
from torch import Tensor, nn

ATTENTION_DROPOUT = 0.1  # of the attention's shares, as in FEAT's code (model/models/feat.py:11)


class SetAttention(nn.Module):
    """Self-attention of one head, a skip and a layer norm: set [N,D] -> set [N,D] (Ye et al. 2020, their Transformer).

    LayerNorm(x + W softmax(Q K^T / sqrt(D)) V), with Q, K and V linear in x. The order of the set does not matter, and
    it may have any size. Weights start as in FEAT's code (model/models/feat.py:39-47). dropout: share of what attention
    adds that is dropped in training; where it is above 0, so is ATTENTION_DROPOUT of attention's shares.
    """

    def __init__(self, features: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(features, features, bias=False) for _ in range(3))
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_normal_(layer.weight)
        self.out, self.norm = nn.Linear(features, features), nn.LayerNorm(features)
        nn.init.xavier_normal_(self.out.weight)
        self.drop, self.drop_shares = nn.Dropout(dropout), nn.Dropout(ATTENTION_DROPOUT if dropout else 0.0)

    def forward(self, x: Tensor, sees: Tensor | None = None) -> Tensor:
        """Return the set that x [N,D] becomes; sees: bool [N,N], whom each looks at, itself among them; None: all."""
        scores = self.query(x) @ self.key(x).mT / x.shape[-1] ** 0.5
        if sees is not None:
            scores = torch.where(sees, scores, -torch.inf)
        return self.norm(x + self.drop(self.out(self.drop_shares(scores.softmax(-1)) @ self.value(x))))
