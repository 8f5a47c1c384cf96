"""How the weights of a net start where its paper's own way is not wanted."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import nn

from metalab.core.errors import UserError

Start = Literal["xavier", "he", "orthogonal", "torch"]
RULES: dict[str, Callable[..., Any]] = {
    "xavier": nn.init.xavier_uniform_,  # Glorot and Bengio 2010
    "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),  # He et al. 2015
    "orthogonal": nn.init.orthogonal_,  # Saxe et al. 2014
}


def initialize_weights(net: nn.Module, rule: Start, loaded: str | None) -> None:
    """Start a net's body and head by a rule; loaded: the weights that its backbone brings, which UserError keeps."""
    if loaded:
        raise UserError(
            f"train.weights={rule} would draw anew what backbone.weights={loaded} loads: make one of them null"
        )
    for name in ("body", "head"):
        initialize_module(getattr(net, name, nn.Identity()), rule)


def initialize_module(net: nn.Module, rule: Start) -> None:
    """Draw the weights of all convolutions and linear layers of a net anew; their biases start at 0.

    torch: as torch.nn does where nobody says otherwise, weights and biases uniform within 1 / sqrt(inputs).
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if rule == "torch":
                module.reset_parameters()
                continue
            RULES[rule](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
