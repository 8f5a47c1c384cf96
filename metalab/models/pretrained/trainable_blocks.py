"""backbone.trainable: which of a net's parameters learn, counted in blocks from its end."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from metalab.core.errors import UserError

Trainable = Literal["all", "none"] | int
OPENED = ("features", "encoder", "layers", "blocks", "stages", "trunk_output")  # what only holds a net's blocks


def freeze_blocks(net: nn.Module, blocks: Sequence[Sequence[str]], trainable: Trainable, name: str) -> None:
    """Let the parameters of a net's last blocks learn and no others.

    Args:
        net: whose parameters' requires_grad is set.
        blocks: the names of the parameters of each block, from the images to the features.
        trainable: all, none, or how many of the last blocks.
        name: of the net.

    Raises:
        UserError: where it has fewer blocks.
    """
    if trainable == "all":
        return
    blocks = _with_norms(net, blocks)
    if trainable != "none" and not 1 <= trainable <= len(blocks):
        raise UserError(
            f"backbone.trainable={trainable}: backbone.name={name} has {len(blocks)} blocks; expected 1 to "
            f"{len(blocks)} of the last ones, all or none"
        )
    learned = set() if trainable == "none" else {each for block in blocks[-trainable:] for each in block}
    for each, parameter in net.named_parameters():
        parameter.requires_grad_(each in learned)


def top_level_blocks(net: nn.Module) -> list[list[str]]:
    """Return the parameters of each child of a net, by name; those of its own come first, with the first child's.

    A child that only holds the blocks, as `features`, is opened: its children stand in its place.
    """
    found = [names for names in _children(net, "") if names]
    own = [name for name, _ in net.named_parameters(recurse=False)]
    return [own + found[0], *found[1:]] if found else [own]


def _children(module: nn.Module, prefix: str) -> list[list[str]]:
    found = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if name in OPENED and any(True for _ in child.children()):
            direct = [f"{path}.{each}" for each, _ in child.named_parameters(recurse=False)]
            found += [direct, *_children(child, f"{path}.")]
        else:
            found.append([f"{path}.{each}" for each, _ in child.named_parameters()])
    return found


def _with_norms(net: nn.Module, blocks: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the blocks, one of norms alone, which have only vectors, joined to the one before it."""
    sizes = {name: parameter.dim() for name, parameter in net.named_parameters()}
    joined: list[list[str]] = []
    for block in blocks:
        if joined and all(sizes[name] <= 1 for name in block):
            joined[-1] += block
        else:
            joined.append(list(block))
    return joined
