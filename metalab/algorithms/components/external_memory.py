"""The external memory of MANN: least recently used access, Santoro et al. 2016, sec. 3.2 and eq. 2 to 8."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metalab.core.errors import UserError

TIE = 1e-4  # usage by which fresh rows differ, so that every engine takes the same one: row 0 first


class State(NamedTuple):
    """What is carried from one step to the next, for N sequences at once."""

    h: Tensor  # [N,H] the controller's state
    c: Tensor  # [N,H] and cell
    rows: Tensor  # [N,S,W] the memory
    weights: Tensor  # [N,R,S] where each head read
    usage: Tensor  # [N,S] how much each row was used lately
    read: Tensor  # [N,R*W] what was read


def check_memory(slots: int, width: int, reads: int, decay: float) -> None:
    """Raise UserError unless a memory of this size can be read by so many heads."""
    if not (0 < reads <= slots and width > 0 and 0 <= decay <= 1):
        raise UserError(
            f"algo.slots={slots}, algo.width={width}, algo.reads={reads}, algo.decay={decay:g}: expected 1 head or "
            "more and a row for each, a width of 1 or more, and a decay of 0 to 1"
        )


def start_state(rows: Tensor, hidden: int, reads: int) -> State:
    """Return the state of one sequence before its first step; rows [S,W] is what the memory holds then.

    No head has read anything. usage rises along the rows by TIE.
    """
    slots, width = rows.shape
    zeros = rows.new_zeros
    usage = TIE * torch.arange(slots, dtype=rows.dtype, device=rows.device)
    return State(
        zeros(1, hidden), zeros(1, hidden), rows[None], zeros(1, reads, slots), usage[None], zeros(1, reads * width)
    )


def memory_step(state: State, keys: Tensor, contents: Tensor, gate: Tensor, decay: float, sharpness: float) -> State:
    """Write, then read: one step of the memory.

    keys, contents [N,R,W]: what each head looks for, and writes (its own vector, as in the reference code; the paper
    writes the key). gate [N,R,1], 0..1: to write where the head read last (1) or to a least used row (0), eq. 7:
    w^w = gate w^r_{t-1} + (1 - gate) w^lu_{t-1}. Head r takes the r-th least used row by the usage of the step before;
    the least used of all is zeroed before the writing. usage = decay usage + sum w^r + sum w^w (eq. 5).
    """
    slots, reads = state.usage.shape[1], keys.shape[1]
    least = state.usage.topk(reads, largest=False).indices[..., None] == torch.arange(slots, device=keys.device)
    least = least.to(keys.dtype)  # [N,R,S]
    written = gate * state.weights + (1 - gate) * least
    rows = state.rows * (1 - least[:, 0, :, None]) + written.mT @ contents
    alike = F.normalize(keys, dim=-1) @ F.normalize(rows, dim=-1).mT  # eq. 2
    weights = (sharpness * alike).softmax(-1)  # eq. 3
    usage = decay * state.usage + weights.sum(1) + written.sum(1)
    return state._replace(rows=rows, weights=weights, usage=usage, read=(weights @ rows).flatten(1))
