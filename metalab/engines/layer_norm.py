"""Layer norm under vmap: torch's own has wrong second derivatives there (tests/engines/test_layer_norm.py).

Without vmap they are right, and with it where gain and shift are applied apart (found with torch 2.15).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class SeparateGain(TorchFunctionMode):
    """Let torch.layer_norm normalize alone; its gain and shift are multiplied and added behind it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_layer_norm if func in (F.layer_norm, torch.layer_norm) else func)(*args, **(kwargs or {}))


def _layer_norm(
    x: Tensor,
    shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
    **__: Any,
) -> Tensor:
    y = torch.layer_norm(x, shape, None, None, eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def exact_layer_norm(net: nn.Module) -> AbstractContextManager[Any]:
    """Return the context in which a net's layer norms are right under vmap; one without any is left alone."""
    return SeparateGain() if any(isinstance(module, nn.LayerNorm) for module in net.modules()) else nullcontext()
