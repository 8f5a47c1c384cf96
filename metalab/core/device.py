"""The device that a run computes on."""

import torch

from metalab.core.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Return the device of cfg.device: auto, cpu, cuda or cuda:N."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count()
    if name == "cpu" or (name == "cuda" and count) or name in [f"cuda:{i}" for i in range(count)]:
        return torch.device(name)
    here = ", ".join(["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))])
    raise UserError(f"device={name} is not here; choose one of: {here}")
