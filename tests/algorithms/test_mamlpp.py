"""MAML++: its rates, its losses and the order of its derivatives."""

import pytest
import torch

from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.gradient_based.mamlpp import MAMLPP
from metalab.algorithms.objectives.multi_step import MultiStep, step_weights
from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.interfaces import TaskResult
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.models.layers import BatchStatNorm
from metalab.models.meta_net import Net
from tests.algorithms.made import WAY, Gradient, episodes, far, net_of, objective, outer


def maml_gradient(net: Net, steps: int, first_order: bool) -> tuple[TaskResult, Gradient]:
    return outer(Learn2Learn(), objective(QueryLoss, MAML(WAY, 0.125, first_order, "learned"), steps), net, episodes())


@pytest.mark.parametrize(("progress", "first_order"), [(0.2, True), (0.3, False), (0.9, False)])
def test_mamlpp_is_first_order_before_its_share_of_training_and_second_order_from_there(progress, first_order):
    algorithm = MAMLPP(WAY, 0.125, 2, 0.0, 0.3)
    net = net_of(algorithm)
    _, got = outer(Learn2Learn(), objective(MultiStep, algorithm, 2), net, episodes(), progress)
    rates = {n: g for n, g in got.items() if n.startswith("rates.")}
    _, same = maml_gradient(net, 2, first_order)
    _, other = maml_gradient(net, 2, not first_order)
    mine = {n: g for n, g in got.items() if n not in rates}
    assert far(mine, same) < 1e-12
    assert far(mine, other) > 1e-4
    assert all(g.abs().max() > 0 for n, g in rates.items() if not n.endswith("0/bias"))  # learned in both


def test_mamlpps_rates_are_one_a_tensor_and_step_and_the_last_serves_later_steps():
    algorithm = MAMLPP(WAY, 0.125, 2, 0.0, 0.0)
    net = net_of(algorithm)
    rates = dict(net.get_submodule("rates").named_parameters())
    assert set(rates) == {n.replace(".", "/") for n, _ in net.named_parameters() if n.startswith(("body.", "head."))}
    assert all(rate.shape == (2,) for rate in rates.values())
    with torch.no_grad():
        for rate in rates.values():
            rate.copy_(torch.tensor([0.0, 0.25]))
    batch = task(episodes(), 0).support
    models = list(algorithm.adapt(TaskLearner(net, False), batch, cross_entropy, 3))
    plain = list(MAML(WAY, 0.25, False, "learned").adapt(TaskLearner(net, False), batch, cross_entropy, 2))
    assert torch.equal(models[0](batch.x), models[1](batch.x))
    for ours, theirs in zip(models[1:], plain, strict=True):
        assert (ours(batch.x) - theirs(batch.x)).abs().max() < 1e-12


def test_mamlpp_leaves_norms_and_rates_of_norms_out_where_it_is_told():
    algorithm = MAMLPP(WAY, 0.125, 2, 0.0, 0.0, adapt_norm=False)
    net = net_of(algorithm)
    norms = {f"{n}.{p}" for n, m in net.named_modules() if isinstance(m, BatchStatNorm) for p in ("weight", "bias")}
    rates = {n.replace("/", ".") for n, _ in net.get_submodule("rates").named_parameters()}
    assert norms
    assert rates == {n for n, _ in net.named_parameters() if n.startswith(("body.", "head."))} - norms
    batch = task(episodes(), 0).support
    mine = [m(batch.x) for m in algorithm.adapt(TaskLearner(net, False), batch, cross_entropy, 2)]
    plain = MAML(WAY, 0.125, False, "learned", adapt_norm=False)
    theirs = [m(batch.x) for m in plain.adapt(TaskLearner(net, False), batch, cross_entropy, 2)]
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(mine, theirs, strict=True))


def test_mamlpps_multi_step_weights_are_annealed_as_the_papers_code_does():
    """Its loop by hand: 5 steps, 10 of 100 epochs; afterwards the last step's loss alone."""
    for epoch in (0, 1, 5, 9, 9.9):
        others = max(1 / 5 - epoch / 5 / 10, 0.03 / 5)
        last = min(1 / 5 + epoch * 4 / 5 / 10, 1 - 4 * 0.03 / 5)
        weights = step_weights(5, torch.tensor(epoch / 100, dtype=torch.float64), 0.1)
        assert (weights - torch.tensor([others] * 4 + [last])).abs().max() < 1e-6
    assert step_weights(5, torch.tensor(0.1), 0.1).tolist() == [0, 0, 0, 0, 1]
    assert step_weights(5, torch.tensor(0.0), 0.0).tolist() == [0, 0, 0, 0, 1]
    assert step_weights(1, torch.tensor(0.0), 0.1).tolist() == [1]


def test_mamlpps_loss_is_the_weighted_sum_of_the_query_losses_after_each_step():
    algorithm = MAMLPP(WAY, 0.125, 2, 1.0, 0.0)
    net = net_of(algorithm)
    result, _ = outer(Learn2Learn(), objective(MultiStep, algorithm, 2), net, episodes(), 0.5)
    one, two = (maml_gradient(net, steps, False)[0].loss for steps in (1, 2))
    assert (result.loss - (0.25 * one + 0.75 * two)).abs().max() < 1e-12
    assert (result.scalars["loss"] - two).abs().max() < 1e-12
