"""What the tests of metric and memory algorithms share: a small net, an episode, both engines side by side."""

import torch
from torch import Tensor, nn

from metalab.core.interfaces import Algorithm, Batch, Episode, Objective
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.engines.vectorized import Vectorized
from metalab.models.backbones import Conv4
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net

WAY, SIZE = 3, 16


def episodes(shot: int = 2, query: int = 2, tasks: int = 3, unlabelled: int = 0, size: int = SIZE) -> Episode:
    """Random images in float64, the classes shuffled."""
    generator = torch.Generator().manual_seed(0)

    def batch(each: int, beside: int) -> Batch:
        x = torch.rand(tasks, WAY * each + beside, 1, size, size, generator=generator, dtype=torch.float64)
        y = torch.arange(WAY).repeat(tasks, each)
        order = torch.randperm(WAY * each, generator=generator)
        x = x + 0.3 * torch.cat([y, torch.zeros(tasks, beside)], 1)[..., None, None, None] / WAY
        return Batch(x[:, : WAY * each][:, order], y[:, order], x[:, WAY * each :])

    return Episode(batch(shot, unlabelled), batch(query, 0))


def one(batch: Episode) -> Episode:
    return task(batch, 0)


def net_of(algorithm: Algorithm, pooled: int = 4, body: nn.Module | None = None) -> Net:
    """A net in float64 whose weights are away from the start, where gains are 1 and shifts 0."""
    torch.manual_seed(0)
    inside = Conv4(4, pooled, False, False).build(1, SIZE) if body is None else body
    features = inside(torch.zeros(2, 1, SIZE, SIZE)).flatten(1).shape[1]
    net = Net(Normalize([0.5], [0.3]), inside, nn.Sequential(), algorithm.parts(inside, features)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


def learner_of(net: Net) -> TaskLearner:
    return TaskLearner(net, False)


def apart(objective: Objective, net: Net, batch: Episode) -> tuple[float, dict[str, Tensor]]:
    """Return how far the engines' losses, scalars and meta-gradients are apart at most, and the gradients."""
    found = []
    for engine in (Learn2Learn(), Vectorized(None)):
        net.zero_grad()
        result = engine.grad(objective, net, batch, torch.zeros(()))
        gradient = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
        found.append((result, gradient))
        evaluated = engine.evaluate(objective, net, batch)
        assert torch.allclose(evaluated.loss, result.loss, rtol=0, atol=1e-10)
    (loop, slow), (result, fast) = found
    assert torch.equal(loop.correct, result.correct)
    assert set(slow) == set(fast)
    differences = [(result.loss - loop.loss).abs().max()]
    differences += [(result.scalars[k] - v).abs().max() for k, v in loop.scalars.items()]
    differences += [(fast[n] - g).abs().max() for n, g in slow.items()]
    return float(torch.stack(differences).max()), slow
