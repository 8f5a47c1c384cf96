"""The net that is meta-learned: normalisation, body, and the named parts that the algorithm adds."""

from torch import Tensor, nn


class Net(nn.Module):
    """A body and an algorithm's parts behind one forward, so that one functional call reaches each of them.

    forward("features", x) gives [N,D,h,w], forward("logits", x) [N,K] through the part `head`, and forward(name, ...)
    calls the part of that name.
    """

    def __init__(self, normalise: nn.Module, body: nn.Module, drop: nn.Module, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.normalise, self.body, self.drop = normalise, body, drop
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, part: str, *args: Tensor) -> Tensor:
        if part == "features":
            return self.drop(self.body(self.normalise(*args)))
        if part == "logits":
            return self.get_submodule("head")(self("features", *args).flatten(1))
        return self.get_submodule(part)(*args)
