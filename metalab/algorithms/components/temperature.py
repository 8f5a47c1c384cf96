"""A number that similarities are divided by before the softmax, fixed or meta-learned."""

import torch
from torch import Tensor, nn

from metalab.core.interfaces import Learner


def temperature_parts(start: float, learned: bool) -> dict[str, nn.Module]:
    """Return what holds the logarithm of a temperature that is meta-learned, which stays above 0 so; else nothing."""
    return {"sharpness": nn.ParameterDict({"log": nn.Parameter(torch.tensor(start).log())})} if learned else {}


def temperature(learner: Learner, start: float, learned: bool) -> Tensor | float:
    """Return the temperature that similarities are divided by."""
    return learner.parameters()["sharpness.log"].exp() if learned else start
