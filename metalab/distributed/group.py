"""What the processes of a training tell each other, by torch.distributed; nothing is sent where there is one process.

Numbers of a meta-step are added on the device that computes them (gloo on CPUs, nccl on GPUs). All else, decisions and
measurements, goes through the processors by gloo, so that no GPU is waited for.
"""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from metalab.core.errors import UserError
from metalab.distributed.processes import processes, several

T = TypeVar("T")
HUNG = timedelta(minutes=30)  # a process that is alive and silent for longer is given up
_host: list[Any] = []  # the group of the processors, while there is one
_lost: list[BaseException] = []  # why another process is taken for gone


class LostProcessError(UserError):
    """Another process of the training is gone: this one cannot go on alone."""


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Be one of the training's processes meanwhile; each of them has to come here, with its own device."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _lost_told():  # SIGTERM ends it meanwhile, as the wait for a process that never comes runs no handler
        dist.init_process_group(backend, timeout=HUNG)
        _host.append(dist.group.WORLD if backend == "gloo" else dist.new_group(backend="gloo", timeout=HUNG))
    before = signal.signal(signal.SIGTERM, _ended)
    try:
        yield
    except Exception:  # left as it is: the others may be gone, and to take leave of them would wait
        _host.clear()
        raise
    except BaseException:  # a signal, which all of them obey at the same step
        _host.clear()
        dist.destroy_process_group()
        raise
    _host.clear()
    dist.destroy_process_group()
    signal.signal(signal.SIGTERM, before)


def _ended(number: int, frame: Any) -> None:
    """Obey SIGTERM, but where another process is gone: torchrun sends it then, and the message has to come out."""
    if not _lost:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def add(values: Tensor) -> None:
    """Replace values by their sum over all processes, on their device."""
    with _lost_told():
        dist.all_reduce(values)


def from_main(value: T) -> T:
    """Return rank 0's value in every process: whatever can be pickled."""
    if not several():
        return value
    held = [value]
    with _lost_told():
        dist.broadcast_object_list(held, src=0, group=_host[0])
    return held[0]


def numbers_from_main(*values: int) -> list[int]:
    """Return rank 0's whole numbers in every process: one short message, for what is asked at every step."""
    held = torch.tensor(values)
    with _lost_told():
        dist.broadcast(held, src=0, group=_host[0])
    return held.tolist()


def anywhere(flags: list[bool]) -> list[bool]:
    """Return which of the flags are true in some process."""
    held = torch.tensor(flags, dtype=torch.uint8)
    with _lost_told():
        dist.all_reduce(held, dist.ReduceOp.MAX, group=_host[0])
    return held.bool().tolist()


def gathered(mine: list[T]) -> list[T]:
    """Return the values of all processes as one list: item i of rank r, is item i * count + r.

    Tensors come on the processor.
    """
    if not several():
        return mine
    count = processes().count
    lists: list[Any] = [None] * count
    with _lost_told():
        dist.all_gather_object(lists, tree_map_only(Tensor, Tensor.cpu, mine), group=_host[0])
    return [lists[i % count][i // count] for i in range(sum(map(len, lists)))]


def turn(items: list[T]) -> list[T]:
    """Return every count-th item, from this process's rank on: what `gathered` puts together again."""
    rank, count, *_ = processes()
    return items[rank::count]


def begin_alike(net: nn.Module) -> None:
    """Give a net in every process rank 0's weights and buffers."""
    with _lost_told(), torch.no_grad():
        for tensor in net.state_dict().values():
            dist.broadcast(tensor, src=0)


@contextmanager
def _lost_told() -> Iterator[None]:
    """Make a LostProcessError of what torch.distributed raises where another process is gone or silent."""
    try:
        yield
    except RuntimeError as error:  # of torch.distributed all are, by whatever name
        _lost.append(error)
        first = re.sub(r"^\[[^]]*\] *", "", str(error).strip() or type(error).__name__).splitlines()[0][
            :200
        ]  # no file, line
        raise LostProcessError(
            f"another process of this training is gone, or answers no more, and the training ends ({first}). What was "
            "saved before is kept: go on with resume=, with as many processes as there are"
        ) from error
