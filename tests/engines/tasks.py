"""Small nets and episodes for the engine that runs all tasks at once."""

import torch
from torch import Tensor, nn

from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.algorithms.objectives.prediction import PREDICTIONS, cross_entropy
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.interfaces import Algorithm, Batch, Engine, Episode, TaskResult
from metalab.models.backbones import Conv4
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net

WAY, SHOT, QUERY, TASKS, SIZE = 3, 2, 2, 5, 16


PROGRESS = torch.zeros(())


ALGORITHMS = {"maml": (MAML(WAY, 0.1, False, "learned"), 2), "protonet": (ProtoNet(WAY), 0)}


def episodes(dtype: torch.dtype = torch.float64) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def batch(each: int) -> Batch:
        x = torch.rand(TASKS, WAY * each, 1, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype)
        return Batch(x, torch.arange(WAY).repeat(TASKS, each), x[:, :0])

    return Episode(batch(SHOT), batch(QUERY))


def net_of(algorithm: Algorithm, drop: nn.Module | None = None, dtype: torch.dtype = torch.float64) -> Net:
    torch.manual_seed(0)
    body = Conv4(4, 4, False, False).build(1, SIZE)
    net = Net(Normalize([0.0], [1.0]), body, drop or nn.Sequential(), algorithm.parts(body, 4)).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith(("body.", "head.")):
                p.add_(0.05 * torch.randn_like(p))
    return net.to(dtype)


def objective(algorithm: Algorithm, steps: int, bn: str = "batch") -> QueryLoss:
    return QueryLoss(algorithm, steps, cross_entropy, cross_entropy, PREDICTIONS[bn])


def gradient(engine: Engine, net: Net, what, batch: Episode) -> tuple[TaskResult, dict[str, Tensor]]:
    net.zero_grad()
    result = engine.grad(what, net, batch, PROGRESS)
    return result, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def farthest(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert set(mine) == set(theirs)
    return max((mine[n] - theirs[n]).abs().max().item() for n in theirs)


def of(case: str) -> tuple[Net, QueryLoss]:
    algorithm, steps = ALGORITHMS[case]
    return net_of(algorithm), objective(algorithm, steps)
