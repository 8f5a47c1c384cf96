"""Where an attack was blind: the share of images whose gradient was exactly zero."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_notes: ContextVar[list[Tensor] | None] = ContextVar("notes", default=None)


@contextmanager
def recording() -> Iterator[list[Tensor]]:
    """Give a list to which every gradient that an attack takes inside adds bool [N], which images had none.

    A training attack stands inside a loss, which returns one number; this is the way around it. Read the list inside
    whatever transform of torch.func it was opened in: no tensor may leave vmap or grad by it.
    """
    found: list[Tensor] = []
    token = _notes.set(found)
    try:
        yield found
    finally:
        _notes.reset(token)


def record(dead: Tensor) -> None:
    """Add bool [N] to the list, where somebody has asked for one."""
    found = _notes.get()
    if found is not None:
        found.append(dead)


def zero_gradient_share(dead: list[Tensor], like: Tensor) -> Tensor:
    """Return the share of images, over all gradients taken, whose gradient is exactly zero; nan where none was."""
    return torch.cat(dead).to(like.dtype).mean() if dead else like.new_full((), torch.nan)
