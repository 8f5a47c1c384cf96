"""What holds for every method that infers the queries together: order, engines, chance, and what it is good for."""

from functools import partial

import pytest
import torch

from metalab.algorithms import PTMAP, TIM, TPN, AlphaTIM
from metalab.algorithms.objectives.prediction import PREDICTIONS, cross_entropy
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.algorithms.transfer_learning.simpleshot import SimpleShot
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode, algorithm_traits
from metalab.core.statistics import mean_ci95
from metalab.engines.learn2learn import Learn2Learn, task
from metalab.engines.vectorized import Vectorized
from tests.algorithms.transductive.features import ALGORITHMS, TIM_LOSS, WAY, accuracies, gaussian, model_of, net_of

EVERY = {**ALGORITHMS, "tpn": TPN(WAY, 20, 0.99)}
each = pytest.mark.parametrize("algo", EVERY)


@each
def test_it_says_that_answers_depend_on_each_other_and_they_do(algo):
    assert algorithm_traits(EVERY[algo]).transductive
    support, query = task(gaussian(1, spread=0.1 if algo == "tpn" else 0.8), 0)  # an untrained graph has few ties
    model = model_of(EVERY[algo], support)
    together, some = model(query.x), model(query.x[:40])
    assert (together[:40].softmax(1) - some.softmax(1)).abs().max() > 1e-6


@each
def test_the_order_of_queries_and_supports_does_not_matter(algo):
    support, query = task(gaussian(1, 5), 0)
    draw = torch.Generator().manual_seed(1)
    mixed, other = torch.randperm(75, generator=draw), torch.randperm(25, generator=draw)
    expected = model_of(EVERY[algo], support)(query.x)
    again = model_of(EVERY[algo], support._replace(x=support.x[other], y=support.y[other]))(query.x[mixed])
    assert torch.allclose(again, expected[mixed], atol=1e-7)


@each
def test_both_engines_infer_the_same(algo):
    algorithm, episodes = EVERY[algo], gaussian(3)
    objective = QueryLoss(algorithm, 0, cross_entropy, cross_entropy, PREDICTIONS["running"])
    loop, fast = (e.evaluate(objective, net_of(algorithm), episodes) for e in (Learn2Learn(), Vectorized(None)))
    assert torch.allclose(loop.loss, fast.loss, rtol=0, atol=1e-8)
    assert torch.equal(loop.correct, fast.correct)


@each
def test_an_image_of_the_query_has_a_gradient_through_the_inference(algo):
    """What an attack climbs: finite differences of the first query's first feature."""
    algorithm = EVERY[algo]
    support, query = task(gaussian(1, 5, (3,) * WAY), 0)
    model = model_of(algorithm, support)

    def loss(x):
        return torch.nn.functional.cross_entropy(model(x), query.y)

    x = query.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(x), x)
    step = torch.zeros_like(query.x)
    step[0, :, 0, 0] = torch.randn(query.x.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        measured = (loss(query.x + 1e-5 * step) - loss(query.x - 1e-5 * step)) / 2e-5
    assert float((slope * step).sum()) == pytest.approx(float(measured), rel=1e-3, abs=1e-7)
    assert (slope != 0).flatten(1).any(1).all()  # no query is without one


def shuffled(episodes: Episode) -> Episode:
    """Supports under labels drawn anew."""
    y = episodes.support.y
    order = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)).argsort(1)
    return episodes._replace(support=episodes.support._replace(y=y.gather(1, order)))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_shuffled_labels_give_chance(algo):
    found = accuracies(ALGORITHMS[algo], shuffled(gaussian(60)))
    mean, half = mean_ci95(found.numpy())
    assert abs(mean - 1 / WAY) < 2 * half


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_it_gains_over_the_nearest_mean_on_gaussian_classes(algo):
    episodes = gaussian(40)
    plain = accuracies(SimpleShot(WAY, "l2n"), episodes)
    gain, half = mean_ci95((accuracies(ALGORITHMS[algo], episodes) - plain).numpy())
    assert gain - half > 0


def test_ptmap_loses_where_classes_are_unequal_and_alpha_tim_does_not():
    ptmap = PTMAP(WAY, 0.5, 10.0, 0.2, 20, 50)
    alpha = AlphaTIM(WAY, None, 50, **{**TIM_LOSS, "cross_entropy": 1.0, "conditional": 1.0})
    even, uneven = gaussian(40), gaussian(40, 1, (35, 20, 12, 6, 2))
    of = partial(accuracies, ptmap)
    loss, half = mean_ci95((of(even) - of(uneven)).numpy())
    assert loss - half > 0.05
    ahead, half = mean_ci95((accuracies(alpha, uneven) - of(uneven)).numpy())
    assert ahead - half > 0


def test_tpn_learns_an_episode_s_graph():
    """A few steps on episodes of one distribution lower the loss of others of it, on both engines alike."""
    algorithm = TPN(WAY, 20, 0.9)
    objective = QueryLoss(algorithm, 0, cross_entropy, cross_entropy, PREDICTIONS["running"])
    found = []
    for engine in (Learn2Learn(), Vectorized(None)):
        net = net_of(algorithm)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
        for step in range(2):
            optimizer.zero_grad()
            engine.grad(objective, net, gaussian(2, seed=step), torch.zeros(()))
            optimizer.step()
        found.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.allclose(*found, atol=1e-9)
    start = torch.cat([p.detach().flatten() for p in net_of(algorithm).parameters()])
    assert not torch.equal(found[0], start)


def test_a_batch_is_what_the_tests_think(tmp_path):
    episodes = gaussian(2, 3, (4, 3, 2, 1, 0))
    assert isinstance(episodes.support, Batch)
    assert episodes.query.y[0].bincount(minlength=WAY).tolist() == [4, 3, 2, 1, 0]
    assert (episodes.support.x > 0).all()


@pytest.mark.parametrize("solver", ["gd", "adm"])
def test_no_iteration_is_no_default(solver):
    with pytest.raises(UserError, match=r"algo\.iterations=0: expected .* 1 iteration or more, or null"):
        TIM(WAY, solver, 0, **TIM_LOSS)
