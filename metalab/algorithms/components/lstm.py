"""The LSTM cell that algorithms share, from two linear maps: torch's own has no batching rule under vmap."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metalab.core.typed_torch import split

Cell = Callable[[Tensor, Tensor, Tensor], Tensor]  # x, h, c -> the new h and c


class LSTMCell(nn.Module):
    """One step of an LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    forward(x [N,I], h [N,S], c [N,H]) returns the new h and c, [2,N,H]; S is H, or more where something read from
    elsewhere stands behind h. Gates stand as in torch.nn.LSTMCell: input, forget, cell, output. The forget gate's bias
    starts at 1.
    """

    def __init__(self, inputs: int, hidden: int, read: int = 0) -> None:
        super().__init__()
        self.given, self.state = nn.Linear(inputs, 4 * hidden), nn.Linear(hidden + read, 4 * hidden)
        for linear in (self.given, self.state):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.ones_(self.given.bias[hidden : 2 * hidden])

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        i, f, g, o = (self.given(x) + self.state(h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.stack([torch.sigmoid(o) * torch.tanh(c), c])


def states(cell: Cell, rows: Tensor) -> Tensor:
    """Return the states h [N,H] of a cell that reads rows [N,H] one after another, from zeros."""
    found = [rows.new_zeros(2, 1, rows.shape[1])]
    for row in split(rows, 1):
        found.append(cell(row, found[-1][0], found[-1][1]))
    return torch.cat([state[0] for state in found[1:]])
