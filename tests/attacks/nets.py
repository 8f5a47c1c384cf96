"""Small nets in float64 and episodes of noise, on which both engines are compared."""

import torch
from torch import nn

from metalab.algorithms.gradient_based.anil import ANIL
from metalab.algorithms.gradient_based.imaml import IMAML
from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.gradient_based.reptile import Reptile
from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.algorithms.objectives.implicit_gradient import ImplicitGradient
from metalab.algorithms.objectives.parameter_distance import ParameterDistance
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.interfaces import Algorithm, Batch, Episode
from metalab.models.backbones import Conv4
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net

WAY, SHOT, QUERY, TASKS, SIZE = 3, 2, 2, 3, 16
PROGRESS = torch.zeros(())
CASES = {
    "maml": (MAML(WAY, 0.4, False, "learned"), QueryLoss, 2),
    "anil": (ANIL(WAY, 0.4, False, "learned"), QueryLoss, 2),
    "reptile": (Reptile(WAY, 1e-2, 0.9, 4), ParameterDistance, 3),
    "imaml": (IMAML(WAY, 0.1, 2.0, 2, 0.0), ImplicitGradient, 2),
    "protonet": (ProtoNet(WAY), QueryLoss, 0),
}


def episodes() -> Episode:
    generator = torch.Generator().manual_seed(0)

    def batch(each: int) -> Batch:
        x = torch.rand(TASKS, WAY * each, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
        return Batch(x, torch.arange(WAY).repeat(TASKS, each), x[:, :0])

    return Episode(batch(SHOT), batch(QUERY))


def net_of(algorithm: Algorithm) -> Net:
    torch.manual_seed(0)
    inside = Conv4(4, 4, False, False).build(1, SIZE)
    net = Net(Normalize([0.0], [1.0]), inside, nn.Sequential(), algorithm.parts(inside, 4)).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith(("body.", "head.")):
                p.add_(0.05 * torch.randn_like(p))
    return net
