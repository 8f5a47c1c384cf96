"""The reference engine against the loop a user would write with learn2learn's own classes, in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalab.algorithms.gradient_based.anil import ANIL
from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.gradient_based.metasgd import MetaSGD
from metalab.algorithms.gradient_based.reptile import Reptile
from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.algorithms.objectives.parameter_distance import ParameterDistance
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.interfaces import Algorithm, Batch, Episode
from metalab.core.learn2learn_import import learn2learn
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.models.backbones import Conv4
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net

WAY, SHOT, QUERY, TASKS, SIZE = 5, 1, 3, 3, 28
PROGRESS = torch.zeros(())


def episodes(seed: int = 0) -> Episode:
    generator = torch.Generator().manual_seed(seed)

    def batch(each: int) -> Batch:
        x = torch.rand(TASKS, WAY * each, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
        y = torch.arange(WAY).repeat(TASKS, each)
        return Batch(x + 0.3 * y[..., None, None, None] / WAY, y, x[:, :0])

    return Episode(batch(SHOT), batch(QUERY))


def net_of(algorithm: Algorithm, filters: int = 64) -> Net:
    """The real conv4: ReLU, batch norm, max-pooling."""
    torch.manual_seed(0)
    body = Conv4(filters, pooled=4, strided=False, mean=False).build(1, SIZE)
    net = Net(Normalize([0.0], [1.0]), body, nn.Sequential(), algorithm.parts(body, filters)).double()
    with torch.no_grad():  # away from the start, where gains are 1 and shifts 0
        for name, p in net.named_parameters():
            if name.startswith(("body.", "head.")):
                p.add_(0.05 * torch.randn_like(p))
    return net


def twin(net: Net) -> tuple[Any, dict[str, str]]:
    """learn2learn's CNN4 with the same weights, and which parameter of ours each of its parameters is."""
    cnn = learn2learn.vision.models.cnn4.CNN4(WAY, hidden_size=64, channels=1, max_pool=True, embedding_size=64)
    names = {"classifier.weight": "head.weight", "classifier.bias": "head.bias"}
    for block in range(4):
        for theirs, ours in (("conv", 0), ("normalize", 1)):
            for leaf in ("weight", "bias"):
                names[f"features.{block}.{theirs}.{leaf}"] = f"body.{block}.{ours}.{leaf}"
    cnn.double()
    mine = dict(net.named_parameters())
    with torch.no_grad():
        for theirs, parameter in cnn.named_parameters():
            parameter.copy_(mine[names[theirs]])
    return cnn, names


def ours(algorithm: Algorithm, net: Net, batch: Episode, steps: int) -> tuple[Tensor, dict[str, Tensor]]:
    net.zero_grad()
    objective = QueryLoss(algorithm, steps, cross_entropy, cross_entropy, predict_transductive)
    result = Learn2Learn().grad(objective, net, batch, PROGRESS)
    return result.loss, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def by_hand(meta: Any, batch: Episode, steps: int) -> Tensor:
    """The loop of learn2learn's examples."""
    losses = []
    for t in range(TASKS):
        learner = meta.clone()
        for _ in range(steps):
            learner.adapt(F.cross_entropy(learner(batch.support.x[t]), batch.support.y[t]))
        losses.append(F.cross_entropy(learner(batch.query.x[t]), batch.query.y[t]))
        (losses[-1] / TASKS).backward()
    return torch.stack(losses).detach()


def distance(mine: dict[str, Tensor], theirs: dict[str, Tensor], names: dict[str, str]) -> float:
    return max((mine[names[n]] - g).abs().max().item() for n, g in theirs.items())


@pytest.mark.slow
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_maml_has_the_loss_and_meta_gradient_of_learn2learns_maml(steps, first_order):
    algorithm = MAML(WAY, 0.4, first_order, "learned")
    net, batch = net_of(algorithm), episodes()
    cnn, names = twin(net)
    theirs = by_hand(learn2learn.algorithms.MAML(cnn, lr=0.4, first_order=first_order), batch, steps)
    loss, gradient = ours(algorithm, net, batch, steps)
    expected = {n: p.grad for n, p in cnn.named_parameters() if p.grad is not None}
    assert len(expected) == 18
    assert (loss - theirs).abs().max() < 1e-10
    assert distance(gradient, expected, names) < 1e-10


def test_the_comparison_fails_when_one_tasks_support_is_anothers():
    algorithm = MAML(WAY, 0.4, False, "learned")
    net, batch = net_of(algorithm), episodes()
    cnn, names = twin(net)
    theirs = by_hand(learn2learn.algorithms.MAML(cnn, lr=0.4), batch, 1)
    order = torch.tensor([1, 0, 2])
    swapped = batch._replace(support=Batch(*(tensor[order] for tensor in batch.support)))
    loss, gradient = ours(algorithm, net, swapped, 1)
    assert (loss - theirs).abs().max() > 1e-6
    assert distance(gradient, {n: p.grad for n, p in cnn.named_parameters() if p.grad is not None}, names) > 1e-6


def test_metasgd_has_the_loss_and_both_meta_gradients_of_learn2learns_metasgd():
    algorithm = MetaSGD(WAY, -0.1, 0.4, False)  # rates may be negative, and are not clamped
    net, batch = net_of(algorithm), episodes()
    cnn, names = twin(net)
    rates = dict(net.get_submodule("rates").named_parameters())
    lrs = [nn.Parameter(rates[names[n].replace(".", "/")].detach().clone()) for n, _ in cnn.named_parameters()]
    theirs = by_hand(learn2learn.algorithms.MetaSGD(cnn, lrs=nn.ParameterList(lrs)), batch, 2)
    loss, gradient = ours(algorithm, net, batch, 2)
    assert (loss - theirs).abs().max() < 1e-10
    expected = {n: p.grad for n, p in cnn.named_parameters() if p.grad is not None}
    assert distance(gradient, expected, names) < 1e-10
    rate_names = {n: "rates." + ours_.replace(".", "/") for n, ours_ in names.items()}
    by_rate = {n: lr.grad for (n, _), lr in zip(cnn.named_parameters(), lrs, strict=True) if lr.grad is not None}
    assert len(by_rate) == 18
    assert distance(gradient, by_rate, rate_names) < 1e-10
    assert any(lr.grad.abs().max() > 1e-4 for lr in lrs if lr.grad is not None)


def test_anil_has_the_meta_gradient_of_learn2learns_maml_on_the_head_alone():
    algorithm = ANIL(WAY, 0.4, False, "learned")
    net, batch = net_of(algorithm), episodes()
    cnn, names = twin(net)
    head = learn2learn.algorithms.MAML(cnn.classifier, lr=0.4)
    losses = []
    for t in range(TASKS):
        learner = head.clone()
        support = cnn.features(batch.support.x[t])
        for _ in range(2):
            learner.adapt(F.cross_entropy(learner(support), batch.support.y[t]))
        losses.append(F.cross_entropy(learner(cnn.features(batch.query.x[t])), batch.query.y[t]))
        (losses[-1] / TASKS).backward()
    loss, gradient = ours(algorithm, net, batch, 2)
    assert (loss - torch.stack(losses).detach()).abs().max() < 1e-10
    assert distance(gradient, {n: p.grad for n, p in cnn.named_parameters() if p.grad is not None}, names) < 1e-10


def test_fomamls_meta_gradient_is_the_query_gradient_at_the_adapted_weights():
    algorithm = MAML(WAY, 0.4, True, "learned")
    net, batch = net_of(algorithm, filters=8), episodes()
    expected = {n: torch.zeros_like(p) for n, p in net.named_parameters()}
    for t in range(TASKS):
        episode = task(batch, t)
        *_, adapted = algorithm.adapt(TaskLearner(net, False), episode.support, cross_entropy, 2)
        there = {n: p.detach().requires_grad_() for n, p in adapted.parameters().items()}  # type: ignore[attr-defined]
        logits = torch.func.functional_call(net, there, ("logits", episode.query.x))
        grads = torch.autograd.grad(F.cross_entropy(logits, episode.query.y), list(there.values()))
        for name, g in zip(there, grads, strict=True):
            expected[name] += g / TASKS
    _, gradient = ours(algorithm, net, batch, 2)
    _, second = ours(MAML(WAY, 0.4, False, "learned"), net, batch, 2)
    assert max((gradient[n] - e).abs().max() for n, e in expected.items()) < 1e-12
    assert max((gradient[n] - second[n]).abs().max() for n in second) > 1e-4


def test_mamls_meta_gradient_is_that_of_finite_differences():
    algorithm = MAML(WAY, 0.4, False, "learned")
    net, batch = net_of(algorithm, filters=4), episodes()
    _, gradient = ours(algorithm, net, batch, 2)
    direction = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    theta = {n: p.detach().clone() for n, p in net.named_parameters()}

    def at(step: float) -> float:
        with torch.no_grad():
            for n, p in net.named_parameters():
                p.copy_(theta[n] + step * direction[n])
        return ours(algorithm, net, batch, 2)[0].mean().item()

    h = 1e-7  # within one piece of the ReLUs and max-poolings: the adapted loss jumps where an inner gradient does
    slope = (at(h) - at(-h)) / (2 * h)
    expected = sum((gradient[n] * direction[n]).sum().item() for n in gradient)
    assert slope == pytest.approx(expected, rel=1e-6)


def test_protonets_logits_are_those_of_learn2learns_prototypical_classifier():
    algorithm = ProtoNet(WAY)
    net, batch = net_of(algorithm, filters=8), episodes()
    episode = task(batch, 0)
    learner = TaskLearner(net, False)
    (model,) = algorithm.adapt(learner, episode.support, cross_entropy, 0)
    theirs = learn2learn.nn.PrototypicalClassifier(
        learner.features(episode.support.x).flatten(1), episode.support.y, distance="euclidean"
    )
    expected = theirs(learner.features(episode.query.x).flatten(1))
    assert (model(episode.query.x) - expected).abs().max() < 1e-10


def test_reptiles_meta_gradient_is_theta_minus_phi_of_torchs_adam_with_beta1_0():
    algorithm = Reptile(WAY, 1e-3, 0.999, batch=5)
    net, batch = net_of(algorithm, filters=8), episodes()
    episode = task(batch, 0)
    support = Batch(episode.query.x, episode.query.y, episode.query.unlabelled)  # 15 images: three batches of 5
    alone = Episode(Batch(*(t[None] for t in support)), Batch(*(t[:1] for t in batch.query)))
    names = [n for n, _ in net.named_parameters()]
    phi = [p.detach().clone().requires_grad_() for p in net.parameters()]
    adam = torch.optim.Adam(phi, lr=1e-3, betas=(0.0, 0.999))
    for step in range(4):  # the fourth batch is the first again
        walk = torch.arange(5 * step, 5 * step + 5) % 15
        logits = torch.func.functional_call(net, dict(zip(names, phi, strict=True)), ("logits", support.x[walk]))
        adam.zero_grad()
        F.cross_entropy(logits, support.y[walk]).backward()
        adam.step()
    objective = ParameterDistance(algorithm, 4, cross_entropy, cross_entropy, predict_transductive)
    result = Learn2Learn().grad(objective, net, alone, PROGRESS)
    for name, parameter, adapted in zip(names, net.parameters(), phi, strict=True):
        assert parameter.grad is not None
        # Batch norm takes out a convolution's bias: its gradient is rounding alone, which Adam scales up.
        near = 1e-7 if name.startswith("body.") and name.endswith(".0.bias") else 1e-12
        assert (parameter.grad - (parameter - adapted)).abs().max() < near, name
        assert (parameter - adapted).abs().max() > 1e-4 or near > 1e-12
    assert net.get_buffer("moments.count") == 4
    assert set(result.state) == {n for n, _ in net.named_buffers() if n.startswith("moments.")}


def test_every_task_starts_from_reptiles_stored_moments_and_their_mean_is_stored():
    algorithm = Reptile(WAY, 1e-3, 0.9, batch=5)
    net, batch = net_of(algorithm, filters=4), episodes()
    moment = "moments." + next(n for n, _ in net.named_parameters()).replace(".", "/")
    net.get_buffer(moment).fill_(0.5)
    objective = ParameterDistance(algorithm, 1, cross_entropy, cross_entropy, predict_transductive)
    result = Learn2Learn().grad(objective, net, batch, PROGRESS)
    assert (result.state[moment] > 0.449).all()  # 0.9 * 0.5 and something of its own gradient, in each task
    assert not torch.equal(result.state[moment][0], result.state[moment][1])
    assert torch.equal(net.get_buffer(moment), result.state[moment].mean(0))


def test_evaluation_leaves_the_net_alone_and_builds_no_graph():
    for algorithm, steps in (
        (MAML(WAY, 0.4, False, "learned"), 2),
        (Reptile(WAY, 1e-3, 0.9, 5), 3),
        (ProtoNet(WAY), 0),
    ):
        net, batch = net_of(algorithm, filters=4), episodes()
        before = {n: t.clone() for n, t in net.state_dict().items()}
        objective = QueryLoss(algorithm, steps, cross_entropy, cross_entropy, predict_transductive)
        result = Learn2Learn().evaluate(objective, net, batch)
        assert not result.loss.requires_grad
        assert result.correct.shape == (TASKS, WAY * QUERY)
        assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
        assert all(p.grad is None for p in net.parameters())


def test_evaluation_adapts_as_training_does():
    algorithm = MAML(WAY, 0.4, False, "learned")
    net, batch = net_of(algorithm, filters=8), episodes()
    objective = QueryLoss(algorithm, 3, cross_entropy, cross_entropy, predict_transductive)
    assert torch.equal(
        Learn2Learn().evaluate(objective, net, batch).loss, Learn2Learn().grad(objective, net, batch, PROGRESS).loss
    )


def test_the_mean_over_tasks_is_what_is_differentiated():
    algorithm = ProtoNet(WAY)
    net, batch = net_of(algorithm, filters=4), episodes()
    together_ = ours(algorithm, net, batch, 0)[1]
    single = [
        ours(algorithm, net, Episode(*(Batch(*(x[t : t + 1] for x in b)) for b in batch)), 0)[1] for t in range(TASKS)
    ]
    for name, gradient in together_.items():
        assert (gradient - torch.stack([s[name] for s in single]).mean(0)).abs().max() < 1e-12
