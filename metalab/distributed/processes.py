"""Which of the processes of one training this one is, by the environment that torchrun gives it; it loads no torch."""

import os
from typing import NamedTuple

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torch.distributed reads, all of it


class Processes(NamedTuple):
    """This process among all of a training."""

    rank: int  # 0..count-1; 0 alone writes and prints
    count: int
    local_rank: int  # among those of this machine
    local_count: int


def processes() -> Processes:
    """Return which process this one is; 0 of 1 where nothing started several."""
    found = os.environ
    if not all(found.get(name) for name in NEEDED) or int(found["WORLD_SIZE"]) < 2:
        return Processes(0, 1, 0, 1)
    rank, count = int(found["RANK"]), int(found["WORLD_SIZE"])
    return Processes(rank, count, int(found.get("LOCAL_RANK", rank)), int(found.get("LOCAL_WORLD_SIZE", count)))


def several() -> bool:
    """Whether a training has more processes than this one."""
    return processes().count > 1


def is_main() -> bool:
    """Whether this process writes and prints: the only one, or rank 0."""
    return processes().rank == 0


def share(tasks: int) -> slice:
    """Return which of the tasks of a meta-batch are this process's: shares differ by one task at most.

    All of them where there is one process.
    """
    rank, count, *_ = processes()
    return slice(rank * tasks // count, (rank + 1) * tasks // count)
