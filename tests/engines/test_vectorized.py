"""What is the vectorized engine's own: right second-order gradients, chunks, randomness, evaluation that only looks."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.gradient_based.reptile import Reptile
from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.algorithms.objectives.prediction import PREDICTIONS
from metalab.core.interfaces import Batch, Episode
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.models.backbones import DropBlock
from metalab.models.layers import BatchStatNorm, running_statistics
from tests.engines.tasks import (
    ALGORITHMS,
    PROGRESS,
    QUERY,
    TASKS,
    WAY,
    episodes,
    farthest,
    gradient,
    net_of,
    objective,
    of,
)


def test_mamls_meta_gradient_is_that_of_finite_differences():
    net, what = of("maml")
    _, analytic = gradient(Vectorized(None), net, what, episodes())
    direction = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    theta = {n: p.detach().clone() for n, p in net.named_parameters()}

    def at(step: float) -> float:
        with torch.no_grad():
            for n, p in net.named_parameters():
                p.copy_(theta[n] + step * direction[n])
        return gradient(Vectorized(None), net, what, episodes())[0].loss.mean().item()

    h = 1e-7  # within one piece of the ReLUs and max-poolings
    slope = (at(h) - at(-h)) / (2 * h)
    at(0)
    _, first = gradient(Vectorized(None), net, objective(MAML(WAY, 0.1, True, "learned"), 2), episodes())
    along = [sum((g[n] * direction[n]).sum().item() for n in g) for g in (analytic, first)]
    assert slope == pytest.approx(along[0], rel=1e-6)
    assert slope != pytest.approx(along[1], rel=1e-2)  # what the first order alone would give


def test_torchs_own_batch_norm_would_be_noticed(monkeypatch):
    """Same losses, other second-order gradients: should this fail, torch is mended and the norm can be its own."""
    net, what = of("maml")
    loop, expected = gradient(Learn2Learn(), net, what, episodes())

    def theirs(self, x, then_pool):
        y = F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return F.max_pool2d(y, 2).relu() if then_pool else y

    monkeypatch.setattr(BatchStatNorm, "forward", theirs)
    result, wrong = gradient(Vectorized(None), net, what, episodes())
    assert (result.loss - loop.loss).abs().max() < 1e-10
    assert farthest(wrong, expected) > 1e-4


def test_one_tasks_support_in_the_place_of_anothers_would_be_noticed():
    net, what = of("maml")
    batch = episodes()
    loop, expected = gradient(Learn2Learn(), net, what, batch)
    order = torch.tensor([1, 0, 2, 3, 4])
    swapped = batch._replace(support=Batch(*(t[order] for t in batch.support)))
    result, wrong = gradient(Vectorized(None), net, what, swapped)
    assert (result.loss - loop.loss).abs().max() > 1e-6
    assert farthest(wrong, expected) > 1e-6


@pytest.mark.parametrize("drop", [nn.Dropout(0.5), DropBlock(0.5, 1)], ids=["dropout", "dropblock"])
def test_every_task_drops_something_of_its_own(drop):
    algorithm = ProtoNet(WAY)
    net = net_of(algorithm, drop)
    one = Episode(*(Batch(*(t[:1].expand(TASKS, *t.shape[1:]) for t in b)) for b in episodes()))
    loss = Vectorized(None).grad(objective(algorithm, 0), net.train(), one, PROGRESS).loss
    assert len(loss.unique()) == TASKS
    plain = Vectorized(None).evaluate(objective(algorithm, 0), net.eval(), one).loss
    assert (plain - plain[0]).abs().max() < 1e-12


def test_evaluation_leaves_the_net_alone_and_builds_no_graph():
    for algorithm, steps in (*ALGORITHMS.values(), (Reptile(WAY, 1e-3, 0.9, 5), 3)):
        net = net_of(algorithm)
        before = {n: t.clone() for n, t in net.state_dict().items()}
        result = Vectorized(2).evaluate(objective(algorithm, steps), net, episodes())
        assert not result.loss.requires_grad
        assert result.correct.shape == (TASKS, WAY * QUERY)
        assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
        assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("bn", PREDICTIONS)
@pytest.mark.parametrize("case", ALGORITHMS)
def test_every_batch_norm_mode_is_the_loops(case, bn):
    algorithm, steps = ALGORITHMS[case]
    net, what = net_of(algorithm), objective(algorithm, steps, bn)
    for m in net.modules():
        if isinstance(m, BatchStatNorm):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    with running_statistics() if bn == "running" else nullcontext():
        fast, slow = (engine.evaluate(what, net, episodes()) for engine in (Vectorized(2), Learn2Learn()))
    assert (fast.loss - slow.loss).abs().max() < 1e-10
    assert torch.equal(fast.correct, slow.correct)
    other = Learn2Learn().evaluate(objective(algorithm, steps, "batch"), net, episodes())
    assert bn == "batch" or (other.loss - fast.loss).abs().max() > 1e-6
