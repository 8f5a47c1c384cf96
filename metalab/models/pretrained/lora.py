"""LoRA: low-rank additions to a net's weights, which learn in their place (Hu, Shen, Wallis et al. 2022)."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from metalab.config.validate import check_positive
from metalab.core.errors import UserError

LoRALayers = Literal["all", "qkv"]
JOINT = {"in_proj_weight": 3, "qkv": 3, "kv": 2}  # so many weights of queries, keys and values one below another
APART = ("q_proj", "k_proj", "v_proj", "q", "k", "v", "query", "key", "value")  # linear layers of one of the three


@dataclass(frozen=True)
class LoRA:
    """What is added to a net: settings of a pretrained backbone.

    rank: of the additions; None: there are none. on: all linear layers, convolutions and attention, or the queries,
    keys and values of attention, each with an addition of its own. alpha: the addition counts alpha / rank; None:
    fully.
    """

    rank: int | None
    on: LoRALayers
    alpha: float | None

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise UserError(f"backbone.lora={self.rank}: expected a rank of 1 or more, or null for none")
        if self.alpha is not None:
            check_positive("backbone.lora_alpha", self.alpha)


class LowRank(nn.Module):
    """W -> W + scale up @ down, of a weight [O,...], with up [O,R] at zero and down [R,...] as torch starts a layer.

    R is the rank, or the most that the weight can have. parts: of so many weights one below another each has its own
    addition, with down [parts R,...].
    """

    def __init__(self, weight: Tensor, rank: int, scale: float = 1.0, parts: int = 1) -> None:
        super().__init__()
        out, inputs = weight.shape[0], weight[0].numel()
        rank = min(rank, out // parts, inputs)
        self.scale, self.parts = scale, parts
        self.up = nn.Parameter(weight.new_zeros(out, rank))
        self.down = nn.Parameter(weight.new_empty(parts * rank, inputs))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        up, down = (t.view(self.parts, -1, t.shape[1]) for t in (self.up, self.down))
        return weight + self.scale * (up @ down).view(weight.shape)


class _Place(NamedTuple):
    """A weight that gets an addition."""

    module: nn.Module
    leaf: str  # its name in the module
    parts: int  # how many weights it is, one below another


def add_lora(net: nn.Module, how: LoRA, pretrained: bool, name: str) -> None:
    """Let low-rank additions to the weights of a net's layers that learn, linear, convolution and attention, learn.

    Args:
        net: whose own parameters are frozen then; with rank None nothing is done.
        how: the additions.
        pretrained: whether it has weights.
        name: of the net.

    Raises:
        UserError: where there is nothing to add to.
    """
    if how.rank is None:
        return
    if not pretrained:
        raise UserError("backbone.lora adds to weights that are kept, and there are none: type backbone.weights, too")
    found = _places(net, how.on)
    if not found:
        layer = "linear layer, convolution or attention" if how.on == "all" else "attention's queries, keys and values"
        raise UserError(
            f"backbone.lora={how.rank}: no {layer} of backbone.name={name} learns: type "
            + ("" if how.on == "all" else "backbone.lora_on=all, or ")
            + "backbone.trainable=all, or how many of the last blocks"
        )
    net.requires_grad_(False)
    scale = 1.0 if how.alpha is None else how.alpha / how.rank
    for module, leaf, parts in found:
        addition = LowRank(module.get_parameter(leaf), how.rank, scale, parts)
        parametrize.register_parametrization(module, leaf, addition, unsafe=True)


def _places(net: nn.Module, on: LoRALayers) -> list[_Place]:
    """Return the weights that learn and are to get an addition."""
    found: list[_Place] = []
    for name, module in net.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            continue
        for leaf, p in module.named_parameters(recurse=False):
            known_by = leaf.removesuffix("_weight") if isinstance(module, nn.MultiheadAttention) else name
            names = (leaf, known_by.rpartition(".")[2])
            joint = next((JOINT[n] for n in names if n in JOINT), 1)
            if not p.requires_grad or p.dim() < 2 or not (on == "all" or joint > 1 or names[1] in APART):
                continue
            if on == "qkv" and p.shape[0] != joint * p[0].numel() and joint > 1:
                raise UserError(
                    f"backbone.lora_on=qkv: {name} has queries, keys and values of different sizes in one weight "
                    f"{list(p.shape)}: type backbone.lora_on=all"
                )
            found.append(_Place(module, leaf, joint if on == "qkv" else 1))
    return found
