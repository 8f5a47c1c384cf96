"""easyfsl's BD-CSPN, LaplacianShot, PT-MAP and TIM on the same features; where they leave the papers, which step."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from easyfsl import methods as easyfsl
from torch import Tensor, nn

from metalab.algorithms import BDCSPN, PTMAP, TIM, LaplacianShot
from metalab.algorithms.components.prototype_rectification import shifted
from metalab.algorithms.components.query_graph import bound_updates, neighbours
from metalab.core.interfaces import Batch, Episode
from metalab.engines.learn2learn import task
from tests.algorithms.transductive.features import TIM_LOSS, WAY, gaussian, model_of


@pytest.fixture(params=[1, 5])
def episode(request) -> Episode:
    return task(gaussian(1, request.param), 0)


def flat(batch: Batch) -> Tensor:
    return batch.x.flatten(1)


def theirs(method, episode: Episode, **settings):
    made = method(nn.Identity(), **settings)
    made.process_support_set(flat(episode.support), episode.support.y)
    return made


def test_bdcspn(episode):
    """Theirs classifies the queries where they were before the shift that rectified the prototypes; ours, shifted."""
    made = theirs(easyfsl.BDCSPN, episode)
    made(flat(episode.query))
    moved = shifted(flat(episode.support), flat(episode.query))
    expected = made.cosine_distance_to_prototypes(moved)  # theirs have no scale: 1
    assert torch.allclose(model_of(BDCSPN(WAY, "un", 1.0), episode.support)(episode.query.x), expected, atol=1e-10)


def without_shift(episode: Episode) -> Episode:
    """Move the queries so that their mean is the support's: the one step of Liu et al. on which theirs differ."""
    at = shifted(flat(episode.support), flat(episode.query))
    return episode._replace(query=episode.query._replace(x=at[..., None, None]))


def test_bdcspn_is_theirs_where_there_is_nothing_to_shift(episode):
    here = without_shift(episode)
    expected = theirs(easyfsl.BDCSPN, here)(flat(here.query))
    assert torch.allclose(model_of(BDCSPN(WAY, "un", 1.0), here.support)(here.query.x), expected, atol=1e-10)


class DoubleLaplacianShot(easyfsl.LaplacianShot):
    """Theirs in float64."""

    def compute_pairwise_affinities(self, features: Tensor) -> Tensor:
        return super().compute_pairwise_affinities(features).double()


def test_laplacianshot(episode):
    """With their rectification, that of Liu et al. at a scale of 1, and nothing to shift. knn=3 counts the query."""
    here = without_shift(episode)
    here = Episode(*(b._replace(x=b.x / 10) for b in here))  # distances of which a softmax is not one-hot
    made = theirs(DoubleLaplacianShot, here, knn=3, lambda_regularization=0.7)
    expected = made(flat(here.query))
    ours = model_of(LaplacianShot(WAY, "un", 2, 0.7, 20, "images", 1.0), here.support)(here.query.x).softmax(1)
    assert expected.max(1).values.median() < 0.999
    assert torch.allclose(ours, expected, atol=1e-4)


def test_their_graph_and_bound_updates(episode):
    made, f = theirs(easyfsl.LaplacianShot, episode, knn=4), F.normalize(flat(episode.query), dim=1)
    near = made.compute_pairwise_affinities(f).double()
    assert torch.equal(neighbours(f, 3), near)
    cost = torch.rand(len(f), WAY, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = made.bound_updates(cost, near)
    assert torch.allclose(bound_updates(cost, near, 0.7, 20).softmax(1), expected, atol=1e-4)


class GaussianPTMAP(easyfsl.PTMAP):
    """Theirs with the whole of sec. 3.1: they leave out that features are made of length 1 and centred."""

    def compute_features(self, images: Tensor) -> Tensor:
        raised = F.normalize(super().compute_features(images), dim=1)
        return F.normalize(raised - raised.mean(0), dim=1)

    def compute_optimal_transport(self, cost_matrix: Tensor, epsilon: float = 1e-6) -> Tensor:
        return super().compute_optimal_transport(cost_matrix, 0.0)  # 1e-6 ends it 1e-4 away from the plan


@pytest.mark.parametrize("shot", [1, 5])
def test_ptmap(shot):
    episode = task(gaussian(1, shot, spread=1.2), 0)
    made = theirs(GaussianPTMAP, episode, fine_tuning_steps=3)
    expected = made(flat(episode.query))
    ours = model_of(PTMAP(WAY, 0.5, 10.0, 0.2, 3, 1000), episode.support)(episode.query.x)
    assert torch.allclose(ours.exp(), expected, atol=1e-5)
    assert torch.allclose(ours.softmax(1), expected, atol=1e-5)  # its rows are shares already


class EuclideanTIM(easyfsl.TIM):
    """Theirs with the paper's logits, -1/2 |w - z|^2 for their cosine (eq. 1): only then are they TIM's."""

    def cosine_distance_to_prototypes(self, samples: Tensor) -> Tensor:
        return -torch.cdist(samples, self.prototypes).square() / 2


@pytest.mark.parametrize("steps", [1, 20, 100])
def test_tim_by_gradient_descent(episode, steps):
    made = theirs(
        EuclideanTIM,
        episode,
        fine_tuning_steps=steps,
        fine_tuning_lr=1e-3,
        cross_entropy_weight=0.1,
        temperature=15.0,
        feature_normalization=2.0,
    )
    expected = 15 * made(flat(episode.query))
    ours = model_of(TIM(WAY, "gd", steps, **TIM_LOSS), episode.support)(episode.query.x)
    before = model_of(replace(TIM(WAY, "gd", 1, **TIM_LOSS), lr=1e-12), episode.support)(episode.query.x)
    assert torch.allclose(ours, expected, atol=1e-4)
    assert (expected - before).abs().max() > 1e-3  # so many steps do something
