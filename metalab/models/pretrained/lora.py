"""LoRA: low-rank additions to a net's weights, which learn in their place (Hu, Shen, Wallis et al. 2022)."""

from torch import Tensor, nn
from torch.nn.utils import parametrize

from metalab.core.errors import UserError


class LowRank(nn.Module):
    """W -> W + up @ down, of a weight [O,...], with up [O,R] at zero and down [R,...] as torch starts a linear layer.

    R is the rank, or the most that the weight can have. The addition counts fully (the paper's alpha is its rank).
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        out, inputs = weight.shape[0], weight[0].numel()
        rank = min(rank, out, inputs)
        self.up = nn.Parameter(weight.new_zeros(out, rank))
        self.down = nn.Parameter(weight.new_empty(rank, inputs))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view(weight.shape)


def add_lora(net: nn.Module, rank: int | None, pretrained: bool, name: str) -> None:
    """Let low-rank additions to the weights of a net's layers that learn, linear, convolution and attention, learn.

    Args:
        net: whose own parameters are frozen then; with rank None nothing is done.
        rank: of the additions.
        pretrained: whether it has weights.
        name: of the net.

    Raises:
        UserError: where the rank is below 1, or there is nothing to add to.
    """
    if rank is None:
        return
    if rank < 1:
        raise UserError(f"backbone.lora={rank}: expected a rank of 1 or more, or null for none")
    if not pretrained:
        raise UserError("backbone.lora adds to weights that are kept, and there are none: type backbone.weights, too")
    layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.MultiheadAttention)]
    found = [
        (m, leaf) for m in layers for leaf, p in m.named_parameters(recurse=False) if p.requires_grad and p.dim() > 1
    ]
    if not found:
        raise UserError(
            f"backbone.lora={rank}: no linear layer, convolution or attention of backbone.name={name} learns: "
            "type backbone.trainable=all, or how many of the last blocks"
        )
    net.requires_grad_(False)
    for module, leaf in found:
        parametrize.register_parametrization(module, leaf, LowRank(module.get_parameter(leaf), rank), unsafe=True)
