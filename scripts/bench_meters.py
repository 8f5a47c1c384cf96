"""What bench.py measures with: the clock, the memory, the operations, the bytes and the device's ceiling."""

import os
import statistics
import time
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler prints two lines at each use


class Bytes(TorchDispatchMode):
    """Count the bytes that operations read and write, each as if nothing stayed in a cache; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(t.numel() * t.element_size() for t in tree_leaves((args, out)) if isinstance(t, Tensor))
        return out


class Operations(TorchDispatchMode):
    """Count operations by torch's formulas; its own FlopCounterMode watches modules, which gradients inside break."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def clocked(run: Callable[[], object], device: torch.device) -> float:
    """Return the milliseconds of one call, all of its work on the device included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - began)


def peak(run: Callable[[], object], device: torch.device) -> float:
    """Return the most MB that one call held at once: all on a GPU, on a CPU what the call itself has asked for."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    traced: Any = seen.profiler
    changes = [e.nbytes() for e in traced.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(changes), default=0) / 2**20


def ceiling(device: torch.device, smoke: bool) -> float:
    """Return the operations a second of a large float32 matrix product: what this device can do."""
    side = 64 if smoke else 8192 if device.type == "cuda" else 2048
    a = torch.rand(side, side, device=device)
    times = [clocked(lambda: a @ a, device) for _ in range(8)]
    return 2 * side**3 / (statistics.median(times[2:]) / 1000)


def bandwidth(device: torch.device, smoke: bool) -> float:
    """Return the bytes a second that a large copy reads and writes: what this device's memory can do."""
    a = torch.zeros(2**10 if smoke else 2**26, device=device)
    times = [clocked(a.clone, device) for _ in range(8)]
    return 2 * a.numel() * a.element_size() / (statistics.median(times[2:]) / 1000)


def profiled(run: Callable[[], object], device: torch.device, most: int = 6) -> list[tuple[str, float]]:
    """Return the operations that take most of a call's time, each with its share, by torch's profiler."""
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    for _ in range(8):  # until the memory that it needs is there
        run()
    with profile(activities=kinds) as seen:
        run()
    on_gpu = device.type == "cuda"
    spent = {e.key: e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in seen.key_averages()}
    whole = sum(spent.values()) or 1.0
    return [(name, time / whole) for name, time in sorted(spent.items(), key=lambda each: -each[1])[:most]]


def amount(run: Callable[[], Tensor]) -> tuple[float, float]:
    """Return the operations and the bytes of one call."""
    with Operations() as operations:
        run()
    with Bytes() as moved:
        run()
    return float(operations.total), float(moved.total)
