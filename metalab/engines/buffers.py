"""Which tensors of a net a task may change, and what a meta-batch leaves behind in it."""

from torch import Tensor, nn


def learnable(net: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a net that learn, by name: those that are frozen have no gradient in any loop."""
    return {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}


def update_buffers(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Write the mean over the tasks of the buffers [T,...] that outlive a task, by name, into the net."""
    for name, value in state.items():
        net.get_buffer(name).copy_(value.mean(0))
