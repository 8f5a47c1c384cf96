"""In which numbers a GPU multiplies: full float32 unless asked otherwise, whatever torch's own default is."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch

from metalab.core.errors import UserError

Precision = Literal["float32", "tf32", "bf16"]


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Multiply in full float32, in TF32, or under bfloat16 autocast; UserError off CUDA for all but the first.

    torch lets cuDNN's convolutions use TF32 unless it is told not to, so float32 is set, not assumed.
    """
    if precision != "float32" and device.type != "cuda":
        raise UserError(f"engine.precision={precision} needs a CUDA device, this is {device.type}: type float32")
    with tf32(precision == "tf32"), torch.autocast("cuda", torch.bfloat16) if precision == "bf16" else nullcontext():
        yield


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let matrix products and convolutions of float32 on a GPU use TF32, or not, and put back what was set before.

    torch has two ways to say so and raises where both were used: the newer one wherever it is there (torch 2.9).
    """
    places: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    name, value = "allow_tf32", allowed
    if torch.__version__ >= "2.9":
        places = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]  # type: ignore[attr-defined]
        name, value = "fp32_precision", "tf32" if allowed else "ieee"
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, value)
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            setattr(place, name, was)
