"""Say what a very large number will take before the work begins: it is taken, but nobody waits for days in silence."""

import time
from collections.abc import Mapping

import torch
from torch import nn

LARGE = 1_000_000  # passes through the net; fewer are not timed
AT_ONCE = 500  # images that are passed to time them
HOUR = 3600  # seconds


def long_run_warning(
    net: nn.Module, images: int, shape: tuple[int, int], passes: int, worth: int, made_of: Mapping[str, int]
) -> str | None:
    """Return what so many passes of so many images through a net will take at least, or None below `worth` seconds.

    shape: channels and side of the images. made_of: the settings that make the number so large, as they are typed. One
    pass without derivatives is timed, three times, and the quickest counts: inner steps and attacks take more.
    """
    if passes <= LARGE:
        return None
    channels, side = shape
    some = min(images, AT_ONCE)
    x = torch.zeros(some, channels, side, side, device=next(net.parameters()).device)
    net.eval()
    least = images / some * min(_seconds(net, x) for _ in range(3))
    if passes * least < worth:
        return None
    typed = ", ".join(f"{key}={value}" for key, value in made_of.items())
    return (
        f"{typed}: {passes:,} passes of {images} images through the net, {duration(passes * least)} at least, at "
        f"{1000 * least:.3g} ms each; Ctrl-C stops it, smaller numbers shorten it"
    )


@torch.no_grad()
def _seconds(net: nn.Module, x: torch.Tensor) -> float:
    began = time.perf_counter()
    net("features", x)
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - began


def duration(seconds: float) -> str:
    """Return a time in the largest unit of which it has one or more."""
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"
