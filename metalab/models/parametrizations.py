"""Names of weights to which something is added or multiplied by torch.nn.utils.parametrize."""

from torch import nn

ORIGINAL = ".original"  # what torch calls the weight itself, in X.parametrizations.weight.original


def plain_names(net: nn.Module) -> dict[str, str]:
    """Return for each of a net's own tensors, by the name that it has without parametrizations, the name it has now."""
    own = dict[str, str]()
    for name in net.state_dict():
        if is_parametrized(name) and name.endswith(ORIGINAL):
            own[name.removesuffix(ORIGINAL).replace("parametrizations.", "")] = name
        elif not is_parametrized(name):
            own[name] = name
    return own


def is_addition(name: str) -> bool:
    """Return whether a tensor is no weight of the net itself, but what changes one."""
    return is_parametrized(name) and not name.endswith(ORIGINAL)


def is_parametrized(name: str) -> bool:
    """Return whether a tensor is a weight that is changed, or what changes one."""
    return ".parametrizations." in f".{name}"
