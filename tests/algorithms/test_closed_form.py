"""R2-D2: the ridge against oracles, in every shape and precision, and the same gradients on both engines."""

import pytest
import torch
from torch import Tensor

from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.algorithms.solver_based import r2d2
from metalab.algorithms.solver_based.metaoptnet import MetaOptNet
from metalab.algorithms.solver_based.r2d2 import R2D2, ridge
from metalab.core.interfaces import Batch
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.engines.vectorized import Vectorized
from tests.algorithms.made import WAY, episodes, far, net_of, objective, outer


def sample(images: int, features: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(images, features, generator=generator, dtype=torch.float64)
    return f, torch.arange(images) % 3, torch.tensor(0.7, dtype=torch.float64)


@pytest.mark.parametrize(("images", "features"), [(6, 20), (20, 6), (8, 8)])
def test_the_ridge_is_the_dense_least_squares_solution(images, features):
    """Least squares on rows [F; sqrt(lam) I] and [Y; 0], by QR: another way to the same minimum."""
    f, y, lam = sample(images, features)
    rows = torch.cat([f, lam.sqrt() * torch.eye(features, dtype=f.dtype)])
    onto = torch.cat([torch.eye(3, dtype=f.dtype)[y], torch.zeros(features, 3, dtype=f.dtype)])
    expected = torch.linalg.lstsq(rows, onto, driver="gels").solution
    assert (ridge(f, y, 3, lam) - expected).abs().max() < 1e-10


@pytest.mark.parametrize(("images", "features", "equations"), [(6, 20, 6), (20, 6, 6)])
def test_r2d2_woodbury_only_where_the_support_is_smaller_than_the_features(images, features, equations, monkeypatch):
    seen, solve = [], torch.linalg.solve_ex
    monkeypatch.setattr(r2d2.torch.linalg, "solve_ex", lambda a, b: seen.append(a.shape) or solve(a, b))
    f, y, lam = sample(images, features)
    ridge(f, y, 3, lam)
    assert seen == [(equations, equations)]


def test_r2d2_solves_in_float32_even_under_autocast():
    f, y, lam = sample(6, 20)
    exact = ridge(f, y, 3, lam)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weight = ridge(f.bfloat16(), y, 3, lam.float())
        assert weight.dtype == torch.float32
        assert (f.bfloat16().float() @ torch.ones(20, 1)).dtype == torch.bfloat16  # what autocast would have done
        same = ridge(f.float(), y, 3, lam.float())
    assert (same - exact).abs().max() < 1e-5


@pytest.mark.parametrize("algorithm", [R2D2(3, 1.0, 2.0), MetaOptNet(3, 0.1, 2.0)], ids=["r2d2", "metaoptnet"])
def test_closed_form_heads_are_float32_even_under_autocast(algorithm):
    net = net_of(algorithm).float()
    support, query = (Batch(b.x.float(), b.y, b.unlabelled.float()) for b in task(episodes(), 0))
    learner = TaskLearner(net, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = {id(b.x): learner.features(b.x).bfloat16().detach() for b in (support, query)}
        learner.features = lambda x: features[id(x)]  # type: ignore[method-assign]
        (model,) = algorithm.adapt(learner, support, cross_entropy, 0)  # type: ignore[arg-type]
        mixed = model(query.x)
    (model,) = algorithm.adapt(learner, support, cross_entropy, 0)  # type: ignore[arg-type]
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, model(query.x))  # of the same features


@pytest.mark.parametrize("shot", [1, 4], ids=["fewer images than features", "more"])
def test_r2d2_can_be_its_codes_ridge(shot):
    """A column of ones, rows of features and labels over sqrt(N), a fixed lambda: the normal equations by hand."""
    algorithm = R2D2(WAY, 5.0, 2.0, learn_lam=False, ones=True, mean=True)
    net = net_of(algorithm)
    assert {n for n, _ in net.named_parameters() if n.startswith("ridge.")} == {"ridge.scale", "ridge.bias"}
    episode = task(episodes(), 0)
    x, y = episode.support.x.repeat(shot, 1, 1, 1), episode.support.y.repeat(shot)
    x = x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    support = Batch(x, y, x[:0])

    def rows(images: Tensor) -> Tensor:
        f = net("features", images).flatten(1)
        return torch.cat([f, torch.ones(len(f), 1, dtype=f.dtype)], 1)

    f, onto = rows(x) / len(x) ** 0.5, torch.eye(WAY, dtype=x.dtype)[y] / len(x) ** 0.5
    weight = torch.linalg.solve(f.T @ f + 5.0 * torch.eye(f.shape[1], dtype=f.dtype), f.T @ onto)
    with torch.no_grad():
        net.get_parameter("ridge.bias").add_(0.5)
    (model,) = algorithm.adapt(TaskLearner(net, False), support, cross_entropy, 0)
    asked = episode.query.x
    assert (model(asked) - (2 * rows(asked) @ weight + 0.5)).abs().max() < 1e-10


def test_r2d2_has_a_learned_lambda_scale_and_bias_and_lambda_stays_positive():
    algorithm = R2D2(WAY, 1.0, 10.0)
    net = net_of(algorithm)
    _, gradient = outer(Learn2Learn(), objective(QueryLoss, algorithm, 0), net, episodes())
    assert gradient["ridge.log_lam"].abs() > 1e-6
    assert gradient["ridge.scale"].abs() > 1e-6
    assert gradient["ridge.bias"].abs() < 1e-12  # it moves all logits alike
    with torch.no_grad():
        net.get_parameter("ridge.log_lam").sub_(100)
        net.get_parameter("ridge.bias").add_(2)
    episode = task(episodes(), 0)
    (model,) = algorithm.adapt(TaskLearner(net, False), episode.support, cross_entropy, 0)
    # with hardly any ridge the support's outputs are its labels wherever its features can tell the images apart
    features = TaskLearner(net, False).features(episode.support.x).flatten(1)
    fitted = features @ torch.linalg.lstsq(features, torch.eye(WAY, dtype=features.dtype)[episode.support.y]).solution
    assert (model(episode.support.x) - (10 * fitted + 2)).abs().max() < 1e-6


@pytest.mark.parametrize("codes", [False, True], ids=["learned lambda", "its code's"])
@pytest.mark.parametrize("shot", [1, 2])
def test_both_engines_have_the_same_meta_gradients(shot, codes):
    algorithm = R2D2(WAY, 1.0, 10.0, learn_lam=not codes, ones=codes, mean=codes)
    net, aim, batch = net_of(algorithm), objective(QueryLoss, algorithm, 0), episodes()
    batch = batch._replace(
        support=batch.support._replace(x=batch.support.x[:, : WAY * shot], y=batch.support.y[:, : WAY * shot])
    )
    (loop, slow), (fast, quick) = (outer(engine, aim, net, batch) for engine in (Learn2Learn(), Vectorized(None)))
    assert (loop.loss - fast.loss).abs().max() < 1e-10
    assert far(slow, quick) < 1e-10
