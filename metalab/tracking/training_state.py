"""Where a training stands: what a checkpoint holds beside the weights."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class State:
    """Where a run stands; all of it is in the checkpoint."""

    step: int = 0  # finished meta-steps
    best: float | None = None  # the monitored value of best.pt
    best_accuracy: float | None = None
    stale: int = 0  # validations since
    seconds: float = 0.0  # of work so far, in this process and the ones before
    busy: float = 0.0  # seconds of the steps in the window
    kept: list[tuple[float, int]] = field(default_factory=list)  # best first: value and step, where several are kept
    window: list[Tensor] = field(default_factory=list)  # what was not logged yet

    def saved(self) -> dict[str, Any]:
        """Return it as plain values and tensors on the CPU."""
        return asdict(self) | {"window": [row.cpu() for row in self.window]}

    def to(self, device: torch.device) -> "State":
        """Return it with its tensors on a device, where the rows to come will be."""
        return replace(self, window=[row.to(device) for row in self.window])
