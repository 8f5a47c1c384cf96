"""DeepBDC: scipy's distances of the channels, doubly centred by the centring matrix, in numpy."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from metalab.algorithms.metric_based.deepbdc import DeepBDC
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one


def triangle(channels: np.ndarray, divided_by: float) -> np.ndarray:
    """The upper triangle of the centred matrix of channels [D,P]."""
    d = len(channels)
    roots = np.sqrt(squareform(pdist(channels, "sqeuclidean")) / divided_by + 1e-5)
    centring = np.eye(d) - np.ones((d, d)) / d
    return (centring @ roots @ centring)[np.triu_indices(d)]


def channels(maps: Tensor) -> np.ndarray:
    return maps.detach().flatten(2).numpy()


@pytest.mark.parametrize("reduce", [None, 3])
@pytest.mark.parametrize(("shot", "metric"), [(1, None), (2, None), (1, "euclidean"), (2, "inner")])
def test_images_are_compared_by_their_centred_distance_matrices(shot, metric, reduce):
    algorithm = DeepBDC(WAY, reduce, metric)
    net, (support, query) = net_of(algorithm, pooled=2), one(episodes(shot))
    divided_by = float(net.get_parameter("sharpness.log").detach().exp())
    assert divided_by == pytest.approx(2 * 16, rel=0.2)  # net_of moves every parameter a little
    images = [net("features", x) for x in (support.x, query.x)]
    images = images if reduce is None else [net("reduce", maps) for maps in images]
    known, asked = (np.stack([triangle(c, divided_by) for c in channels(maps)]) for maps in images)
    means = np.stack([known[support.y.numpy() == k].mean(0) for k in range(WAY)])
    inner = metric == "inner" or (metric is None and shot == 1)
    expected = asked @ means.T if inner else -((asked[:, None] - means) ** 2).sum(2)
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    assert np.allclose(model(query.x).detach().numpy(), expected, atol=1e-12, rtol=0)
    assert expected.std(1).min() > 1e-6


@pytest.mark.parametrize("reduce", [None, 3])
@pytest.mark.parametrize("shot", [1, 2])
def test_both_engines_agree(shot, reduce):
    algorithm = DeepBDC(WAY, reduce, None)
    net = net_of(algorithm, pooled=2)
    what = QueryLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive)
    far, gradient = apart(what, net, episodes(shot))
    assert far < 1e-10
    assert gradient["sharpness.log"].abs() > 0
    assert reduce is None or gradient["reduce.0.weight"].abs().max() > 0


def test_channels_below_one_are_refused():
    with pytest.raises(UserError, match=r"^algo.reduce=0"):
        DeepBDC(WAY, 0, None)
