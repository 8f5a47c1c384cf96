"""The transfer baselines: heads against oracles, frozen features, and training by mini-batches in the one loop."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from metalab.algorithms.components.cosine_head import Cosine
from metalab.algorithms.components.heads import SGD, fit_head
from metalab.algorithms.components.solvers.logistic_regression import logistic_regression
from metalab.algorithms.objectives.classification import ClassificationLoss
from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.algorithms.transfer_learning.baseline import Baseline, linear
from metalab.algorithms.transfer_learning.baselinepp import BaselinePP
from metalab.algorithms.transfer_learning.feature_extraction import FeatureExtraction
from metalab.algorithms.transfer_learning.finetune import Finetune
from metalab.core.interfaces import Algorithm, Batch, Episode
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.engines.vectorized import Vectorized
from metalab.evaluation.measure import outcome
from metalab.models.layers import estimate_running, running_statistics
from metalab.models.meta_net import Net
from tests.algorithms.made import WAY, episodes, far, net_of, objective, outer

SGD_ = (2, 4, 0.01, 0.9, 0.9, 1e-3)  # epochs, batch, lr, momentum, dampening, weight decay

CASES: dict[str, tuple[Algorithm, int]] = {
    "baseline": (Baseline(WAY, *SGD_), 0),
    "baselinepp": (BaselinePP(WAY, 2.0, *SGD_), 0),
    "finetune": (Finetune(WAY, 0.01, None, "zero"), 2),
    "finetune last": (Finetune(WAY, 0.01, 1, "prototype"), 2),
    "feature_extraction": (FeatureExtraction(WAY, 1.0, 20), 0),
}


@pytest.fixture
def support() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(10, 6, generator=generator, dtype=torch.float64), torch.arange(10) % 3


def net(algorithm: Algorithm) -> Net:
    made = net_of(algorithm)
    estimate_running(made, [lambda: made("features", episodes().query.x[0])])
    return made


def mini_batches() -> Episode:
    support, query = episodes()
    return Episode(Batch(support.x[:, :0], support.y[:, :0], support.x[:, :0]), query)


@pytest.mark.parametrize("case", CASES)
def test_both_engines_train_and_test_alike(case):
    algorithm, steps = CASES[case]
    made, batch = net(algorithm), mini_batches()
    (loop, slow), (fast, quick) = (
        outer(engine, objective(ClassificationLoss, algorithm, 0), made, batch)
        for engine in (Learn2Learn(), Vectorized(None))
    )
    assert (loop.loss - fast.loss).abs().max() < 1e-10
    assert far(slow, quick) < 1e-10
    aim = objective(QueryLoss, algorithm, steps)
    expected, got = (outcome(engine, aim, made, episodes(), "running") for engine in (Learn2Learn(), Vectorized(None)))
    assert (expected.loss - got.loss).abs().max() < 1e-10
    assert (expected.loss - math.log(WAY)).abs().min() > 1e-6


def test_the_classifiers_gradient_is_that_of_plain_training():
    algorithm = CASES["baseline"][0]
    made, batch = net(algorithm), mini_batches()
    _, got = outer(Learn2Learn(), objective(ClassificationLoss, algorithm, 0), made, batch)
    made.zero_grad()
    for x, y in zip(batch.query.x, batch.query.y, strict=True):
        (F.cross_entropy(made("logits", x), y) / 2).backward()
    assert far(got, {n: p.grad for n, p in made.named_parameters() if p.grad is not None}) < 1e-12


def test_a_baselines_head_is_trained_as_torchs_sgd_does_with_dampening_and_decay(support):
    x, y = support
    head = nn.Linear(6, 3).double()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    theirs = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, dampening=0.9, weight_decay=0.01)
    for _ in range(5):
        for start in range(0, 10, 4):  # 4, 4 and 2 images
            theirs.zero_grad()
            F.cross_entropy(head(x[start : start + 4]), y[start : start + 4]).backward()
            theirs.step()
    zero = {"weight": torch.zeros_like(head.weight), "bias": torch.zeros_like(head.bias)}
    ours = fit_head(linear, zero, x, y, 5, 4, SGD(0.1, 0.9, 0.9, 0.01))
    assert (ours["weight"] - head.weight).abs().max() < 1e-12
    assert (ours["bias"] - head.bias).abs().max() < 1e-12
    plain = fit_head(linear, zero, x, y, 5, 4, SGD(0.1, 0.9, 0.0, 0.01))
    assert (plain["weight"] - head.weight).abs().max() > 1e-2


@pytest.mark.parametrize(
    "kind", [Baseline(WAY, 100, 4, 0.5, 0.9, 0.9, 0.0), BaselinePP(WAY, 5.0, 100, 4, 0.5, 0.9, 0.9, 0.0)]
)
def test_a_tasks_head_learns_the_support_by_its_features(kind):
    made, support = net(kind), task(episodes(), 0).support
    with running_statistics():
        (model,) = kind.adapt(TaskLearner(made, False), support, cross_entropy, 0)
        assert cross_entropy(model, support) < 0.9 * math.log(WAY)


def test_logistic_regression_is_the_minimum_that_scipy_finds(support):
    x, y = F.normalize(support[0], dim=1), support[1]

    def value(flat: np.ndarray) -> float:
        w = torch.from_numpy(flat).view(3, 7)
        return (w[:, :6].square().sum() / 2 + 2 * F.cross_entropy(x @ w[:, :6].T + w[:, 6], y, reduction="sum")).item()

    found = scipy.optimize.minimize(value, np.zeros(21), tol=1e-12)
    weight, bias = logistic_regression(x, y, 3, 2.0, 200)
    ours = torch.cat([weight, bias[:, None]], 1)
    assert value(ours.flatten().numpy()) <= found.fun + 1e-9
    assert (ours - torch.from_numpy(found.x).view(3, 7)).abs().max() < 1e-4


@pytest.mark.parametrize("shot", [1, 5])
def test_its_probabilities_are_scikit_learns(shot):
    """On features as a ResNet-12's, 640 of them and none below 0, for several tasks under vmap."""
    generator = torch.Generator().manual_seed(shot)
    centres = torch.rand(3, 5, 640, generator=generator, dtype=torch.float64)
    y = torch.arange(5).repeat(shot)
    x, queries = (
        F.normalize((centres[:, labels] + torch.randn(3, len(labels), 640, generator=generator)).relu(), dim=2)
        for labels in (y, torch.arange(5).repeat(15))
    )
    fit = torch.func.vmap(lambda f: logistic_regression(f, y, 5, 1.0, 200))
    for f, q, weight, bias in zip(x, queries, *fit(x), strict=True):
        theirs = LogisticRegression(C=1.0, solver="lbfgs", max_iter=1000).fit(f.numpy(), y.numpy())
        ours = (q @ weight.T + bias).softmax(1)
        assert np.abs(ours.numpy() - theirs.predict_proba(q.numpy())).max() < 1e-3
        assert (ours - 0.2).abs().max() > 1e-2


def test_baselines_features_are_frozen_and_in_eval_mode_at_test():
    """The head learns on the features that the stored statistics give, whatever else is in the batch."""
    algorithm = CASES["baseline"][0]
    made, episode = net(algorithm), task(episodes(), 0)
    with running_statistics():
        learner = TaskLearner(made, False)
        (model,) = algorithm.adapt(learner, episode.support, cross_entropy, 0)
        together = model(episode.query.x)
        alone = torch.cat([model(x[None]) for x in episode.query.x])
    assert (together - alone).abs().max() < 1e-12
    before = {n: p.clone() for n, p in made.state_dict().items()}
    outcome(Learn2Learn(), objective(QueryLoss, algorithm, 0), made, episodes(), "running")
    assert all(torch.equal(before[n], p) for n, p in made.state_dict().items())


def test_baselineplusplus_has_the_cosine_of_features_and_weights_and_a_gain_a_class():
    head = Cosine(4, WAY, 2.0).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    assert head.gain is not None
    with torch.no_grad():
        head.gain.copy_(torch.tensor([1.0, 2.0, 3.0]))
    expected = 2 * torch.tensor([1.0, 2.0, 3.0]) * F.cosine_similarity(x[:, None], head.weight, dim=2)
    assert (head(x) - expected).abs().max() < 1e-12
    assert (head(3 * x) - expected).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("layers", "blocks"), [(0, set()), (1, {"3"}), (3, {"1", "2", "3"}), (None, set("0123")), (9, set("0123"))]
)
def test_finetune_changes_the_last_layers_and_the_head(layers, blocks):
    algorithm = Finetune(WAY, 0.1, layers, "prototype")
    learner = TaskLearner(net(algorithm), False)
    with running_statistics():
        models = list(algorithm.adapt(learner, task(episodes(), 0).support, cross_entropy, 2))
    before, after = models[0].parameters(), models[-1].parameters()  # type: ignore[attr-defined]
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert {n.split(".")[1] for n in changed if n.startswith("body.")} == blocks
    assert {"head.weight", "head.bias"} <= changed
    for block in blocks:
        assert {f"body.{block}.0.weight", f"body.{block}.1.weight", f"body.{block}.1.bias"} <= changed


def test_finetuning_lowers_the_supports_loss():
    algorithm, support = Finetune(WAY, 0.01, None, "zero"), task(episodes(), 0).support
    with running_statistics():
        losses = [
            cross_entropy(m, support).item()
            for m in algorithm.adapt(TaskLearner(net(algorithm), False), support, cross_entropy, 5)
        ]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(math.log(WAY))
