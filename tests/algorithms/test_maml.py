"""MAML's heads and steps by hand."""

import torch
import torch.nn.functional as F

from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.objectives.losses import binary_cross_entropy
from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.core.interfaces import Batch, Episode
from metalab.engines.learn2learn import TaskLearner
from metalab.models.backbones import Conv4
from metalab.models.layers import BatchStatNorm, Normalize
from metalab.models.meta_net import Net
from tests.configs import training_setup

PARTS = ("weight", "bias")


def learner(way: int, init: str, filters: int = 4) -> tuple[MAML, TaskLearner]:
    torch.manual_seed(0)
    algorithm = MAML(way, 0.1, False, init)  # type: ignore[arg-type]
    body = Conv4(filters, pooled=2, strided=False, mean=True).build(1, 8)
    net = Net(Normalize([0.0], [1.0]), body, torch.nn.Sequential(), algorithm.parts(body, filters))
    return algorithm, TaskLearner(net, False)


def batch(way: int, shot: int = 2) -> Batch:
    x = torch.rand(way * shot, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.arange(way).repeat(shot), x[:0])


def test_a_prototype_head_starts_as_protonets_logits():
    _, start = learner(5, "prototype")
    model = next(MAML(3, 0.1, False, "prototype").adapt(start, batch(3), cross_entropy, 1))
    x = torch.rand(4, 1, 8, 8)
    features, support = start.features(x).flatten(1), start.features(batch(3).x).flatten(1)
    means = torch.stack([support[batch(3).y == k].mean(0) for k in range(3)])
    euclidean = -(features[:, None] - means).square().sum(-1)
    shift = (euclidean - model(x)).mean(1, keepdim=True)  # |f|^2, the same for every class
    assert (euclidean - model(x) - shift).abs().max() < 1e-4


def test_a_zero_head_starts_at_chance_and_adapts_at_any_way():
    _, start = learner(5, "zero")
    first, *_, last = MAML(3, 0.1, False, "zero").adapt(start, batch(3), cross_entropy, 3)
    assert torch.equal(first(batch(3).x), torch.zeros(6, 3))
    assert cross_entropy(last, batch(3)) < cross_entropy(first, batch(3)) - 0.005


def test_maml_yields_the_model_after_every_step_and_adapts_norm_gains_and_shifts():
    algorithm, start = learner(3, "learned")
    models = list(algorithm.adapt(start, batch(3), cross_entropy, 3))
    assert len(models) == 4
    losses = [cross_entropy(m, batch(3)).item() for m in models]
    assert losses == sorted(losses, reverse=True)
    before, after = start.parameters(), models[-1].parameters()  # type: ignore[attr-defined]
    assert all(not torch.equal(before[n], after[n]) for n in before if ".1." in n)


def test_norm_gains_and_shifts_may_stay_as_in_the_papers_code():
    _, start = learner(3, "learned")
    algorithm = MAML(3, 0.1, False, "learned", adapt_norm=False)
    *_, last = algorithm.adapt(start, batch(3), cross_entropy, 2)
    before, after = start.parameters(), last.parameters()  # type: ignore[attr-defined]
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    body = Conv4(4, pooled=2, strided=False, mean=True).build(1, 8)
    norms = {f"body.{n}.{p}" for n, m in body.named_modules() if isinstance(m, BatchStatNorm) for p in PARTS}
    assert len(norms) == 8
    # the bias of a convolution before a batch norm has no gradient but rounding's
    assert {n for n in before if n not in norms and not n.endswith(".0.bias")} <= changed <= set(before) - norms


def test_the_episodes_loss_is_that_of_inner_steps_and_training_and_results_are_cross_entropies(small):
    """Here the cross-entropy of each class on its own, yes or no, in a step by hand."""
    _, start = learner(5, "learned")
    support, query = batch(5), batch(5, 3)
    theta = start.parameters()
    gradient = start.grad(lambda at: binary_cross_entropy(at, support), [n for n in theta if n.startswith("body.")])
    gradient |= start.grad(lambda at: binary_cross_entropy(at, support), [n for n in theta if n.startswith("head.")])
    adapted = start.replace({n: theta[n] - 0.1 * g for n, g in gradient.items()})
    words = ("algo=maml", "algo.lr=0.1", "algo.steps=1", "algo.test_steps=1")
    r = training_setup(small(*words, "algo.episode_loss=metalab.algorithms.objectives.binary_cross_entropy"))
    episode, progress = Episode(support, query), torch.zeros(())
    trained, tested = (o(start, episode, progress).loss for o in (r.objective(), r.measured()))
    assert torch.allclose(trained, binary_cross_entropy(adapted, query), rtol=1e-6)
    assert torch.allclose(tested, cross_entropy(adapted, query), rtol=1e-6)
    plain = training_setup(small(*words)).measured()(start, episode, progress).loss
    assert (plain - tested).abs() > 1e-3


def test_a_step_of_way_times_the_authors_rate_is_theirs_on_the_sum_over_the_shots():
    """MAML's code has sums over the support divided by the shots (cbfinn/maml, utils.py:58), here there are means."""
    way, shot, rate = 3, 2, 0.4
    _, start = learner(way, "learned")
    support = batch(way, shot)
    names = [n for n in start.parameters() if n.startswith(("body.", "head."))]
    gradient = start.grad(lambda at: F.cross_entropy(at(support.x), support.y, reduction="sum") / shot, names)
    theirs = start.replace({n: start.parameters()[n] - rate * g for n, g in gradient.items()})
    *_, ours = MAML(way, rate * way, False, "learned").adapt(start, support, cross_entropy, 1)
    assert (ours(support.x) - theirs(support.x)).abs().max() < 1e-5
    *_, literal = MAML(way, rate, False, "learned").adapt(start, support, cross_entropy, 1)
    assert (literal(support.x) - theirs(support.x)).abs().max() > 0.01
