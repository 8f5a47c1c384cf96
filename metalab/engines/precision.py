"""In which numbers a GPU multiplies: full float32 unless asked otherwise, whatever torch's own default is."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch

from metalab.errors import UserError

Precision = Literal["float32", "tf32", "bf16"]


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Multiply in full float32, in TF32, or under bfloat16 autocast; UserError off CUDA for all but the first.

    torch lets cuDNN's convolutions use TF32 unless it is told not to, so float32 is set, not assumed.
    """
    if precision != "float32" and device.type != "cuda":
        raise UserError(f"engine.precision={precision} needs a CUDA device, this is {device.type}: type float32")
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [b.allow_tf32 for b in backends]
    try:
        for b in backends:
            b.allow_tf32 = precision == "tf32"  # type: ignore[attr-defined]
        with torch.autocast("cuda", dtype=torch.bfloat16) if precision == "bf16" else nullcontext():
            yield
    finally:
        for b, allowed in zip(backends, before, strict=True):
            b.allow_tf32 = allowed  # type: ignore[attr-defined]
