"""How an ensemble's members are made one prediction, against numpy, scikit-learn and a closed form."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax  # pyright: ignore[reportAttributeAccessIssue]
from sklearn.linear_model import LogisticRegression

from metalab.evaluation.ensemble import combine
from metalab.evaluation.ensemble.stacking import fit_weights

DRAW = torch.Generator().manual_seed(0)
LOGITS = [torch.randn(4, 6, 5, generator=DRAW) for _ in range(3)]


def test_the_mean_is_of_probabilities():
    expected = np.mean([softmax(each.numpy().astype(np.float64), -1) for each in LOGITS], 0)
    assert combine.mean_probability(LOGITS).exp().numpy() == pytest.approx(expected, abs=1e-14)


def test_votes_are_counted_and_a_tie_goes_to_the_larger_mean_probability():
    logits = [torch.randn(2000, 4, generator=DRAW) for _ in range(4)]  # 2 : 2 is frequent
    found = combine.votes(logits).argmax(-1).numpy()
    shares = np.mean([softmax(each.numpy().astype(np.float64), -1) for each in logits], 0)
    tied = 0
    for row, p, taken in zip(np.stack([each.argmax(-1).numpy() for each in logits], 1), shares, found, strict=True):
        count = np.bincount(row, minlength=4)
        best = np.flatnonzero(count == count.max())
        tied += len(best) > 1
        assert taken == best[p[best].argmax()]
    assert tied > 200


def test_weighted_votes_are_those_of_samme():
    alphas = [0.3, 2.0, 0.9]
    taken = np.stack([each.argmax(-1).numpy() for each in LOGITS])
    total = np.tensordot(alphas, np.eye(5)[taken], 1)
    assert (combine.votes(LOGITS, alphas).argmax(-1).numpy() == total.argmax(-1)).all()


def test_what_is_no_number_says_nothing_and_is_wrong_where_all_are():
    lost = LOGITS[0].clone()
    lost[0, 0] = torch.nan
    with_two = combine.mean_probability([lost, LOGITS[1]])
    uniform = (0.2 + torch.softmax(LOGITS[1][0, 0].double(), -1)) / 2
    assert torch.allclose(with_two[0, 0].exp(), uniform, atol=1e-14)
    assert combine.votes([lost, LOGITS[1]])[0, 0].argmax() == LOGITS[1][0, 0].argmax()
    for alone in (combine.mean_probability([lost]), combine.weighted([lost], [1.0]), combine.votes([lost])):
        assert alone[0, 0].isnan().all()
        assert alone[0, 1:].isfinite().all()


def test_stacking_of_two_classes_is_scikit_learns_logistic_regression():
    y = torch.randint(2, (300, 1), generator=DRAW)
    hints = (1.0, 0.4, 0.0)
    logits = [h * torch.nn.functional.one_hot(y, 2) + torch.randn(300, 1, 2, generator=DRAW) for h in hints]
    features = np.stack([np.diff(log_softmax(each[:, 0].double().numpy(), -1))[:, 0] for each in logits], 1)
    theirs = LogisticRegression(fit_intercept=False, C=1.0, tol=1e-10, max_iter=1000).fit(features, y[:, 0].numpy())
    ours = fit_weights([[each] for each in logits], [y])
    assert ours == pytest.approx(theirs.coef_[0].tolist(), abs=1e-4)


def test_stacking_gives_the_weight_to_the_good_member_whatever_the_way():
    good, bad, labels = [], [], []
    for way in (5, 3, 4):  # a meta-batch of each way
        y = torch.randint(way, (8, 20), generator=DRAW)
        good.append(2 * torch.nn.functional.one_hot(y, way) + torch.randn(8, 20, way, generator=DRAW))
        bad.append(torch.randn(8, 20, way, generator=DRAW))
        labels.append(y)
    w = fit_weights([good, bad], labels)
    assert w[0] > 0.7
    assert abs(w[1]) < 0.15

    def loss(w: list[float]) -> float:
        found = [combine.weighted(pair, w) for pair in zip(good, bad, strict=True)]
        picked = [p.gather(-1, y[..., None]).sum() for p, y in zip(found, labels, strict=True)]
        return float(-sum(picked)) + sum(x * x for x in w) / 2

    least = loss(w)
    for i in (0, 1):
        for step in (-1e-3, 1e-3):
            moved = list(w)
            moved[i] += step
            assert loss(moved) > least
