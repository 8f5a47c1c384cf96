"""The device of each process of a training."""

import torch

from metalab.core.device import resolve_device
from metalab.core.errors import UserError
from metalab.distributed.processes import processes, several


def own_device(name: str) -> torch.device:
    """Return the device of cfg.device; of several processes on GPUs, each has the one of its local rank.

    Raises:
        UserError: for a device that is not here, for one GPU that all would share, and for fewer GPUs than processes.
    """
    device = resolve_device(name)
    if not several() or device.type != "cuda":
        return device
    _, _, local_rank, local_count = processes()
    if device.index is not None:
        raise UserError(f"device={name} is one GPU, and each of the processes takes its own: type device=cuda")
    if local_count > (there := torch.cuda.device_count()):
        raise UserError(
            f"{local_count} processes on this machine, and it has {there} GPU{'s' if there > 1 else ''}: type torchrun "
            f"--nproc-per-node={there}, or device=cpu"
        )
    return torch.device("cuda", local_rank)
