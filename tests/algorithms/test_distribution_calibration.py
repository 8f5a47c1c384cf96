"""Distribution calibration against its authors' procedure, written out with numpy and scikit-learn's classifier."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from metalab.algorithms import DistributionCalibration
from metalab.algorithms.components.base_statistics import BaseStatistics
from metalab.algorithms.components.fixed_draws import normal_numbers
from metalab.algorithms.components.solvers.preconditioned_regression import preconditioned_regression
from metalab.algorithms.objectives import QueryLoss
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.core.interfaces import Batch, Episode
from metalab.models.meta_net import Net
from tests.algorithms.made import ENGINES

WAY, SIZE, BASE = 3, 6, 8


def base_features(images: int, seed: int = 1) -> list[Tensor]:
    """Return features [n,D], 0 or more, of training classes of unequal sizes."""
    numbers = torch.Generator().manual_seed(seed)
    centers = torch.rand(BASE, SIZE, generator=numbers, dtype=torch.float64)
    made = [torch.randn(images + b % 3, SIZE, generator=numbers, dtype=torch.float64) for b in range(BASE)]
    return [(center + 0.3 * each).relu() for center, each in zip(centers, made, strict=True)]


def episode(shot: int, seed: int) -> Episode:
    """Return features [N,D,1,1] as images of a support and of its queries, as a meta-batch of one."""
    numbers = torch.Generator().manual_seed(seed)
    centers = torch.rand(WAY, SIZE, generator=numbers, dtype=torch.float64)

    def batch(each: int) -> Batch:
        y = torch.arange(WAY).repeat(each)
        x = (centers[y] + 0.2 * torch.randn(len(y), SIZE, generator=numbers, dtype=torch.float64)).relu()
        return Batch(x[None, :, :, None, None], y[None], x[None, :0, :, None, None])

    return Episode(batch(shot), batch(10))


def algorithm(**more) -> DistributionCalibration:
    return DistributionCalibration(
        **{"way": WAY, "nearest": 2, "alpha": 0.21, "power": 0.5, "samples": 60, "C": 1.0, "iterations": 300} | more
    )


def net_of(algo: DistributionCalibration, classes: list[Tensor]) -> Net:
    net = Net(nn.Identity(), nn.Identity(), nn.Sequential(), algo.parts(nn.Identity(), SIZE)).double()
    if classes:
        statistics(net).measure(classes)
    return net


def statistics(net: Net) -> BaseStatistics:
    base = net.get_submodule("base")
    assert isinstance(base, BaseStatistics)
    return base


def logits(net: Net, algo: DistributionCalibration, episodes: Episode, engine: str) -> np.ndarray:
    """Return the logits [T,Q,K] of the queries by an engine."""

    def outer(model, batch):
        seen.append(model(batch.x))
        return nn.functional.cross_entropy(seen[-1], batch.y)

    class Shown(QueryLoss):
        def __call__(self, *given):
            seen.clear()
            result = super().__call__(*given)
            return result._replace(scalars=result.scalars | {"logits": seen[0]})

    seen: list[Tensor] = []
    objective = Shown(algo, 0, cross_entropy, outer, predict_transductive)
    return ENGINES[engine].evaluate(objective, net, episodes).scalars["logits"].numpy()


def theirs(classes: list[Tensor], one: Episode, algo: DistributionCalibration) -> np.ndarray:
    """Return the log-odds of the queries as evaluate_DC.py comes to them, the samples of given normal numbers.

    A normal vector of a covariance is the sum of those of its parts, which the numbers are dealt to in order.
    """
    base = [each.numpy() for each in classes]
    means, covariances = [f.mean(0) for f in base], [np.cov(f.T) for f in base]
    roots = [np.linalg.qr((f - f.mean(0)) / (len(f) - 1) ** 0.5, mode="r") if len(f) > SIZE else None for f in base]
    support, query = (b.x[0, :, :, 0, 0].numpy() ** 0.5 for b in one)
    labels = one.support.y[0].numpy()
    each = int(algo.samples / (len(labels) / WAY))
    numbers = normal_numbers(len(labels), each, 2 * SIZE + 1).astype(float)
    drawn, of = [], []
    for i, f in enumerate(support):
        index = np.argsort([np.linalg.norm(f - mean) for mean in means])[:2]
        center = np.mean([*(means[b] for b in index), f], axis=0)
        covariance = np.mean([covariances[b] for b in index], axis=0) + algo.alpha
        factor = np.concatenate([*(roots[b] / 2**0.5 for b in index), np.full((1, SIZE), algo.alpha**0.5)])
        assert factor.T @ factor == pytest.approx(covariance)
        drawn.append(center + numbers[i] @ factor)
        of += [labels[i]] * each
    fit = LogisticRegression(max_iter=10000, tol=1e-10).fit(
        np.concatenate([support, *drawn]), np.concatenate([labels, of])
    )
    return fit.decision_function(query)


@pytest.mark.parametrize("shot", [1, 3])
@pytest.mark.parametrize("engine", list(ENGINES))
def test_it_is_the_authors_procedure(engine, shot):
    classes, algo = base_features(20), algorithm()
    net = net_of(algo, classes)
    one = episode(shot, 0)
    (ours,) = logits(net, algo, one, engine)
    assert ours - ours.mean(1, keepdims=True) == pytest.approx(theirs(classes, one, algo), abs=1e-4)


def test_many_episodes_at_once_are_each_alone():
    algo = algorithm()
    net = net_of(algo, base_features(20))
    several = [episode(2, seed) for seed in range(3)]
    joined = Episode(*(Batch(*(torch.cat(t) for t in zip(*bs, strict=True))) for bs in zip(*several, strict=True)))
    together = logits(net, algo, joined, "vectorized")
    alone = np.concatenate([logits(net, algo, one, "learn2learn") for one in several])
    assert together == pytest.approx(alone, abs=1e-8)


def test_samples_have_the_calibrated_mean_and_covariance():
    classes, algo = base_features(20), algorithm(samples=100_000)
    net = net_of(algo, classes)
    f = episode(1, 0).support.x[0, :1, :, 0, 0]
    base = statistics(net)
    drawn, _ = algo._drawn(f, torch.zeros(1, dtype=torch.int64), base.mean, base.root)
    near = sorted(range(BASE), key=lambda b: float((classes[b].mean(0) - f[0]).norm()))[:2]
    mean = (sum(classes[b].mean(0) for b in near) + f[0]) / 3
    covariance = sum(np.cov(classes[b].numpy().T) for b in near) / 2 + 0.21
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.01, rtol=0)
    assert np.cov(drawn.numpy().T) == pytest.approx(covariance, abs=0.01)


@pytest.mark.parametrize("images", [1, 4, 20])
def test_a_root_is_one_of_the_covariance(images):
    """Of fewer images than features, too, and of a class of one image, whose covariance is taken for 0."""
    base, classes = BaseStatistics(SIZE, True), base_features(images)
    base.measure(classes)
    for root, mean, f in zip(base.root, base.mean, classes, strict=True):
        wanted = np.cov(f.numpy().T) if len(f) > 1 else np.zeros((SIZE, SIZE))
        assert (root.T @ root).numpy() == pytest.approx(wanted)
        torch.testing.assert_close(mean, f.mean(0))


def test_before_statistics_there_is_the_support_alone():
    algo = algorithm()
    one = episode(3, 0)
    (ours,) = logits(net_of(algo, []), algo, one, "learn2learn")
    support, query = (b.x[0, :, :, 0, 0].numpy() ** 0.5 for b in one)
    fit = LogisticRegression(max_iter=10000, tol=1e-10).fit(support, one.support.y[0].numpy())
    assert ours - ours.mean(1, keepdims=True) == pytest.approx(fit.decision_function(query), abs=1e-4)


def test_float32_and_the_iterations_of_the_yaml_are_enough():
    """Of features as large and as alike as a net's: 300 numbers around 1, of which few tell the classes."""
    numbers = torch.Generator().manual_seed(0)
    y = torch.arange(5).repeat(100)
    f = (1 + 0.3 * torch.randn(500, 300, generator=numbers) + 0.2 * torch.randn(5, 300, generator=numbers)[y]).relu()
    weight, bias = preconditioned_regression(f, y, 5, 1.0, 100)
    fit = LogisticRegression(max_iter=10000, tol=1e-8).fit(f.double().numpy(), y.numpy())
    ours = (f @ weight.T + bias).numpy()
    assert ours - ours.mean(1, keepdims=True) == pytest.approx(fit.decision_function(f.numpy()), abs=0.05)


def test_of_an_unequal_support_each_class_counts_as_much_in_what_is_drawn():
    classes, algo, numbers = base_features(20), algorithm(), torch.Generator().manual_seed(3)
    shots = [1, 1, 2, 5][:WAY] + [3] * max(0, WAY - 4)
    y = torch.arange(WAY).repeat_interleave(torch.tensor(shots))
    f = torch.rand(len(y), SIZE, generator=numbers, dtype=torch.float64)
    query = torch.rand(10, SIZE, generator=numbers, dtype=torch.float64)
    labelled = ((f, y), (query, y[:1].repeat(10)))
    one = Episode(*(Batch(x[None, :, :, None, None], k[None], x[None, :0, :, None, None]) for x, k in labelled))
    net = net_of(algo, classes)
    (ours,) = logits(net, algo, one, "learn2learn")
    drawn, of = algo._drawn(f**0.5, y, statistics(net).mean, statistics(net).root)
    totals = torch.tensor([(of == k).sum() * (len(y) / WAY) / shots[k] for k in range(WAY)])
    assert totals.tolist() == pytest.approx([float(totals.mean())] * WAY)
    weight = np.concatenate([np.ones(len(y)), [len(y) / WAY / shots[k] for k in of.tolist()]])
    fit = LogisticRegression(max_iter=10000, tol=1e-10)
    fit.fit(torch.cat([f**0.5, drawn]).numpy(), torch.cat([y, of]).numpy(), weight)
    assert ours - ours.mean(1, keepdims=True) == pytest.approx(fit.decision_function(query.numpy() ** 0.5), abs=1e-4)
