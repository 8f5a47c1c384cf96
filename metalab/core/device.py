"""The device that a run computes on."""

import os

import torch

from metalab.core.errors import UserError

TURN = "METALAB_TURN"  # the variable of the environment that counts the jobs which run beside each other


def resolve_device(name: str) -> torch.device:
    """Return the device of cfg.device: auto, cpu, cuda or cuda:N.

    auto in a job of a sweep that runs beside others is the next of the GPUs that the job sees, by its number: where a
    scheduler shows each job its own (CUDA_VISIBLE_DEVICES), that one.
    """
    count = torch.cuda.device_count()
    if name == "auto" and count > 1 and (turn := os.environ.get(TURN, "")).isdecimal() and torch.cuda.is_available():
        return torch.device("cuda", int(turn) % count)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu" or (name == "cuda" and count) or name in [f"cuda:{i}" for i in range(count)]:
        return torch.device(name)
    here = ", ".join(["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))])
    raise UserError(f"device={name} is not here; choose one of: {here}")
