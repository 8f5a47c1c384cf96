"""The authors' loops written out, scikit-learn's label spreading, and episodes by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from sklearn.semi_supervised import LabelSpreading

from metalab.algorithms import PTMAP, TIM, TPN, AlphaTIM, LaplacianShot, SoftKMeans
from metalab.algorithms.components.information_maximization import entropy_slope
from metalab.algorithms.components.optimal_transport import transport
from metalab.algorithms.components.query_graph import spread_labels, strongest
from metalab.core.interfaces import Batch, Episode
from metalab.engines.learn2learn import task
from tests.algorithms.transductive.features import TIM_LOSS, WAY, gaussian, model_of, net_of

SHOT = 3


@pytest.fixture
def episode() -> Episode:
    return task(gaussian(1, SHOT, (9, 9, 9, 9, 9)), 0)


def units(batch: Batch) -> np.ndarray:
    f = batch.x.flatten(1).numpy()
    return f / np.linalg.norm(f, axis=1, keepdims=True)


def softmax(a: np.ndarray, axis: int) -> np.ndarray:
    a = np.exp(a - a.max(axis, keepdims=True))
    return a / a.sum(axis, keepdims=True)


def test_laplacianshot_is_their_script(episode):
    """train_lshot.py:603-655 and lshot_update.py:78-104, query by query."""
    known, asked, y = units(episode.support), units(episode.query), episode.support.y.numpy()
    means = np.stack([known[y == k].mean(0) for k in range(WAY)])
    asked = asked + known.mean(0) - asked.mean(0)
    images = np.concatenate([known, asked])
    cosine = images @ means.T / np.linalg.norm(images, axis=1, keepdims=True) / np.linalg.norm(means, axis=1)
    nearest, weight = cosine.argmax(1), softmax(10 * cosine, 1)
    assert (nearest[: len(y)] == y).all()  # theirs takes no support image for another class here either
    prototypes = np.stack(
        [np.mean([weight[i, k] * images[i] for i in range(len(images)) if nearest[i] == k], 0) for k in range(WAY)]
    )
    _, near = NearestNeighbors(n_neighbors=3).fit(asked).kneighbors(asked)
    unary = np.linalg.norm(prototypes[:, None] - asked, axis=-1).T ** 2
    shares = softmax(-unary, 1)
    for _ in range(20):
        ties = np.stack([sum(shares[j] for j in near[i, 1:]) for i in range(len(asked))])
        shares = softmax(0.3 * ties - unary, 1)
    ours = model_of(LaplacianShot(WAY, "l2n", 2, None, 20, "classes", 10.0), episode.support)(episode.query.x)
    assert np.allclose(ours.softmax(1).numpy(), shares, atol=1e-8)


def test_tim_by_alternating_updates_is_their_loop(episode):
    """tim.py:204-245 (loss_weights and N_s / N_q as there), class by class."""
    known, asked, y = units(episode.support), units(episode.query), episode.support.y.numpy()
    onto = np.eye(WAY)[y]
    w = np.stack([known[y == k].mean(0) for k in range(WAY)])
    l0, l1, l2 = 0.1, 1.0, 0.1

    def shares(f: np.ndarray) -> np.ndarray:
        return softmax(15 * (f @ w.T - (w**2).sum(1) / 2 - (f**2).sum(1, keepdims=True) / 2), 1)

    for _ in range(30):
        p, ps = shares(asked), shares(known)
        q = p ** (1 + l2) / (p ** (1 + l2)).sum(0) ** (l1 / (l1 + 1))
        q /= q.sum(1, keepdims=True)
        new = []
        for k in range(WAY):
            source = l0 / (1 + l2) * (onto[:, k] @ known + w[k] * ps[:, k].sum() - ps[:, k] @ known)
            query = len(known) / len(asked) * (q[:, k] @ asked + w[k] * p[:, k].sum() - p[:, k] @ asked)
            norm = l0 / (1 + l2) * onto[:, k].sum() + len(known) / len(asked) * q[:, k].sum()
            new.append((source + query) / norm)
        w = np.stack(new)
    ours = model_of(TIM(WAY, "adm", 30, **TIM_LOSS), episode.support)(episode.query.x)
    assert np.allclose(ours.softmax(1).numpy(), shares(asked), atol=1e-8)


@pytest.mark.parametrize(("shot", "alpha"), [(1, 2.0), (3, 5.0), (5, 7.0)])
def test_alpha_tim_is_adam_on_their_loss(shot, alpha):
    """Realistic_Transductive_Few_Shot's tim.py:281-317 with torch's own Adam; alpha by the shots (240-244)."""
    here = task(gaussian(1, shot), 0)
    known, asked = (torch.from_numpy(units(b)) for b in here)
    onto = torch.eye(WAY, dtype=torch.float64)[here.support.y]
    w = (onto.T @ known / onto.sum(0)[:, None]).requires_grad_()

    def logits(f):
        return 15 * (f @ w.T - (w**2).sum(1) / 2 - (f**2).sum(1)[:, None] / 2)

    optimizer = torch.optim.Adam([w], lr=1e-3)
    for _ in range(50):
        ce = -(onto * torch.log(logits(known).softmax(1) + 1e-12)).sum(1).mean(0)
        q = logits(asked).softmax(1)
        marginal = (1 - q.mean(0).pow(alpha).sum()) / (alpha - 1)
        conditional = ((1 - (q + 1e-12).pow(alpha).sum(1)) / (alpha - 1)).mean(0)
        optimizer.zero_grad()
        (ce - (marginal - conditional)).backward()
        optimizer.step()
    settings = {**TIM_LOSS, "cross_entropy": 1.0, "conditional": 1.0}
    ours = model_of(AlphaTIM(WAY, None, 50, **settings), here.support)(here.query.x)
    assert torch.allclose(ours, logits(asked).detach(), atol=1e-6)


def test_an_alpha_near_1_is_shannon_s_entropy():
    """Up to a constant, which the softmax behind it takes out."""
    shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64, requires_grad=True)
    shannon = -(shares * shares.log()).sum()
    (expected,) = torch.autograd.grad(shannon, shares)
    for alpha in (1, 1 + 1e-7):
        found = entropy_slope(shares.detach(), alpha)
        assert torch.allclose(found - found[0], expected - expected[0], atol=1e-5)
    (expected,) = torch.autograd.grad((1 - shares.square().sum()), shares)
    assert torch.allclose(entropy_slope(shares.detach(), 2), expected)


def test_a_transport_plan_has_the_sums_that_it_is_to_have():
    cost = torch.rand(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plan = transport(cost, 10.0, 200, torch.ones(4).double()).log_plan.exp()
    assert torch.allclose(plan.sum(0), torch.full((4,), 3.0, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(plan.sum(1), torch.ones(12, dtype=torch.float64), atol=1e-6)
    ratio = plan * (10 * cost).exp()  # u_i v_k: all its 2x2 minors are 0
    assert torch.allclose(ratio[0, 0] * ratio[1:, 1:], ratio[1:, :1] * ratio[:1, 1:], rtol=1e-9)


def test_labels_spread_as_scikit_learn_s(episode):
    """Its affinity has no diagonal, its labels end at (1 - alpha) F, and it iterates to them."""
    x = np.concatenate([units(episode.support), units(episode.query)])
    affinity = np.exp(-10 * ((x[:, None] - x) ** 2).sum(-1))
    np.fill_diagonal(affinity, 0.0)
    known = episode.support.y.numpy()
    y = np.concatenate([known, -np.ones(len(x) - len(known), dtype=int)])
    kernel: Any = lambda *_: affinity  # noqa: E731
    theirs = LabelSpreading(kernel=kernel, alpha=0.9, max_iter=10000, tol=1e-14).fit(x, y)
    onto = torch.zeros(len(x), WAY, dtype=torch.float64)
    onto[torch.arange(len(known)), episode.support.y] = 1
    found = spread_labels(torch.from_numpy(affinity), onto, 0.9)
    found = found / found.sum(1, keepdim=True)  # as theirs at the end
    assert np.allclose(found.numpy(), theirs.label_distributions_, atol=1e-8)


def test_tpn_is_their_forward(episode):
    """TPN-pytorch models.py:162-206, on the scales that the network gives, the graph by scatter."""
    algorithm = TPN(WAY, 20, 0.99)
    net = net_of(algorithm)
    maps = torch.cat([episode.support.x, episode.query.x])
    scale, eps = net("scale", maps), np.finfo(float).eps
    f = maps.flatten(1) / (scale + eps)
    w = torch.exp(-((f[:, None] - f[None]) ** 2).mean(2) / 2)
    _, indices = torch.topk(w, 20)
    mask = torch.zeros_like(w).scatter(1, indices, 1)
    w = w * (((mask + mask.T) > 0).double())
    root = torch.sqrt(1.0 / (w.sum(0) + eps))
    s = root[:, None] * w * root
    onto = torch.cat([torch.eye(WAY).double()[episode.support.y], torch.zeros(len(episode.query.y), WAY).double()])
    expected = torch.inverse(torch.eye(len(w)).double() - 0.99 * s + eps) @ onto
    ours = model_of(algorithm, episode.support)(episode.query.x)
    assert torch.allclose(ours, expected[len(episode.support.y) :], rtol=1e-6, atol=1e-8)
    assert scale.std() > 1e-6
    assert expected.std() > 1e-6


def test_the_strongest_ties_are_kept_of_either_side():
    w = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.5], [0.1, 0.5, 1.0]])
    assert torch.equal(strongest(w, 2), torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.5], [0.0, 0.5, 1.0]]))


def line(*values: float, y: tuple[int, ...] = ()) -> Batch:
    x = torch.tensor(values, dtype=torch.float64)[:, None, None, None]
    return Batch(x, torch.tensor(y or [0] * len(values)), x[:0])


def test_soft_k_means_on_a_line_by_hand():
    """Means 0 and 4, queries 1 and 4, temperature 1: shares of class 0 are 1/(1+e^-8) and 1/(1+e^16)."""
    import metalab.algorithms.transductive.soft_kmeans as home

    known, asked = line(0.0, 4.0, y=(0, 1)), line(1.0, 4.0)
    near, far = 1 / (1 + np.exp(-8)), 1 / (1 + np.exp(16))
    first = (near * 1 + far * 4) / (1 + near + far)
    second = (4 + (1 - near) * 1 + (1 - far) * 4) / (1 + (1 - near) + (1 - far))
    algorithm = home.SoftKMeans(2, "un", 1, 1.0)
    from metalab.engines.learn2learn import TaskLearner

    (model,) = algorithm.adapt(TaskLearner(net_of(algorithm, 1), False), known, None, 0)  # type: ignore[arg-type]
    expected = -np.array([[(q - first) ** 2, (q - second) ** 2] for q in (1.0, 4.0)])
    assert np.allclose(model(asked.x).numpy(), expected, atol=1e-12)


def test_ptmap_gives_each_class_as_many_queries_and_takes_negative_features_for_0(episode):
    algorithm = PTMAP(WAY, 0.5, 10.0, 0.2, 3, 300)
    plan = model_of(algorithm, episode.support)(episode.query.x).exp()
    assert torch.allclose(plan.sum(0), torch.full((WAY,), 9.0, dtype=torch.float64), atol=1e-6)
    cut, negative = (Episode(*(b._replace(x=f(b.x - 1)) for b in episode)) for f in (lambda x: x.relu(), lambda x: x))
    assert torch.equal(*(model_of(algorithm, e.support)(e.query.x) for e in (cut, negative)))


def test_soft_k_means_of_no_spread_is_the_nearest_mean(episode):
    ours = model_of(SoftKMeans(WAY, "l2n", 1, 1e-3), episode.support)(episode.query.x)
    assert ours.shape == (45, WAY)
    assert (ours.argmax(1) == episode.query.y).double().mean() > 0.5
