"""The net that is meta-learned: normalization, body, and the named parts that the algorithm adds."""

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """A body and an algorithm's parts behind one forward, so that one functional call reaches each of them.

    forward("features", x) gives [N,D,h,w], forward("logits", x) [N,K] through the part `head`, and forward(name, ...)
    calls the part of that name. Features have float32 or more, also of a body that computes in bfloat16: what is made
    of them, heads, means and fits, would else be of a type in which a small inner step changes nothing.
    """

    def __init__(self, normalize: nn.Module, body: nn.Module, drop: nn.Module, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.normalize, self.body, self.drop = normalize, body, drop
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, part: str, *args: Tensor) -> Tensor:
        if part == "features":
            features = self.drop(self.body(self.normalize(*args)))
            return features.to(torch.promote_types(features.dtype, torch.float32))
        if part == "logits":
            return self.get_submodule("head")(self("features", *args).flatten(1))
        return self.get_submodule(part)(*args)


def net_of_features(net: Net) -> Net:
    """Return a net that takes features [N,D,h,w] in the place of images, with the same parts behind them.

    What an algorithm computes with it is what it computes with the whole net, where it leaves the body as it is.
    """
    parts = {name: part for name, part in net.named_children() if name not in ("normalize", "body", "drop")}
    return Net(nn.Identity(), nn.Identity(), nn.Sequential(), parts).train(net.training)
