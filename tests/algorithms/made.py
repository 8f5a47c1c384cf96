"""What the tests of algorithms are made of: episodes, nets, and both gradients of an engine."""

import torch
from torch import Tensor, nn

from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.core.interfaces import Algorithm, Batch, Engine, Episode, Objective
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.models.backbones import FC, Conv4
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net

WAY, SHOT, QUERY, TASKS = 3, 2, 2, 2

ENGINES = {"learn2learn": Learn2Learn(), "vectorized": Vectorized(None)}

Gradient = dict[str, Tensor]


def episodes(size: int = 16) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def batch(each: int) -> Batch:
        x = torch.rand(TASKS, WAY * each, 1, size, size, generator=generator, dtype=torch.float64)
        return Batch(x, torch.arange(WAY).repeat(TASKS, each), x[:, :0])

    return Episode(batch(SHOT), batch(QUERY))


def net_of(algorithm: Algorithm, body: Conv4 | FC | None = None, size: int = 16, noise: float = 0.1) -> Net:
    torch.manual_seed(0)
    inside = (body or Conv4(4, 4, False, False)).build(1, size)
    net = Net(Normalize([0.5], [0.3]), inside, nn.Sequential(), algorithm.parts(inside, 4)).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith(("body.", "head.")):
                p.add_(noise * torch.randn_like(p))
    return net


def outer(engine: Engine, objective: Objective, net: Net, batch: Episode, progress: float = 0.0) -> tuple:
    net.zero_grad()
    result = engine.grad(objective, net, batch, torch.tensor(progress))
    return result, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def objective(kind: type, algorithm: Algorithm, steps: int) -> Objective:
    return kind(algorithm, steps, cross_entropy, cross_entropy, predict_transductive)


def far(a: Gradient, b: Gradient) -> float:
    assert set(a) == set(b)
    return max((a[n] - b[n]).abs().max().item() for n in a)
