"""Manifold mixup: block by block by hand, on both engines, and not where right and wrong are counted."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalab.algorithms.objectives.prediction import cross_entropy, evaluate_query, predict_with_support_statistics
from metalab.core.errors import UserError
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.models.backbones import Conv4, ResNet12, ResNet18
from metalab.regularizers import manifold_mixup
from metalab.regularizers.manifold_mixup import ManifoldMixup, Mixture, blocks, mixing
from metalab.training import train
from tests.algorithms.metric_cases import episodes, learner_of, net_of, one
from tests.algorithms.test_negative_margin import made
from tests.configs import training_setup
from tests.engines import test_parity as parity

HOOKS = ManifoldMixup(2.0).hooks()


def mixture(n: int, place: float) -> Mixture:
    return Mixture(torch.arange(n).roll(1), torch.tensor(0.3).double(), torch.tensor(place).double())


def test_a_pass_is_mixed_at_the_place_that_is_drawn_and_labels_alike(monkeypatch):
    net, (_, query) = net_of(made(0.0)), one(episodes())
    HOOKS.attach(net)
    n = len(query.y)
    order = torch.arange(n).roll(1)
    for place in range(5):
        monkeypatch.setattr(manifold_mixup, "drawn", lambda x, alpha, at=(place + 0.5) / 5: mixture(n, at))
        maps = query.x
        for i, layer in enumerate([net.get_submodule("normalize"), *net.get_submodule("body").children()]):
            maps = layer(maps)
            maps = 0.3 * maps + 0.7 * maps[order] if i == place else maps
        logits = net("head", maps.flatten(1))
        expected = 0.3 * F.cross_entropy(logits, query.y) + 0.7 * F.cross_entropy(logits, query.y[order])
        result = evaluate_query(learner_of(net), query, HOOKS.outer(cross_entropy))
        assert torch.allclose(result.loss, expected, atol=1e-12), place
        assert torch.equal(result.correct, net("logits", query.x).argmax(1) == query.y)
    assert not torch.equal(logits, net("logits", query.x))


def test_the_support_of_a_pass_stays_as_it_is():
    net, (support, query) = net_of(made(0.0), pooled=2), one(episodes())
    HOOKS.attach(net)
    n, known = len(query.y), len(support.y)

    def maps(x):
        return net("features", x)

    plain = predict_with_support_statistics(maps, support.x, query.x)
    order = torch.arange(n).roll(1)
    with mixing(mixture(n, 0.99)):  # behind the last block: the features themselves
        mixed = predict_with_support_statistics(maps, support.x, query.x)
        both = maps(torch.cat([support.x, query.x]))
    assert torch.allclose(mixed, 0.3 * plain + 0.7 * plain[order], atol=1e-12)
    assert torch.allclose(both[:known], maps(torch.cat([support.x, query.x]))[:known], atol=1e-12)
    assert not torch.allclose(mixed, plain)


def test_all_places_are_drawn_as_often():
    torch.manual_seed(0)
    x = torch.rand(4, 1, 2, 2)
    places = torch.stack([(manifold_mixup.drawn(x, 2.0).place * 5).floor() for _ in range(500)])
    assert (places.unique(return_counts=True)[1] / 500 - 0.2).abs().max() < 0.06
    shares = torch.stack([manifold_mixup.drawn(x, 2.0).share for _ in range(500)])
    assert shares.var().item() == pytest.approx(1 / 20, rel=0.25)  # of Beta(2, 2)


@pytest.mark.parametrize("algo", ["protonet", "baselinepp"])
def test_both_engines_agree(algo, small, monkeypatch):
    monkeypatch.setattr(manifold_mixup, "drawn", lambda x, alpha: mixture(x.shape[0], 0.5))
    task = (
        ("task.train_way=3", "task.train_query=2")
        if algo == "protonet"
        else ("algo.mini_batch=6", "task.train_way=null")
    )
    found = []
    for word in ("reg=manifold_mixup", "reg=none"):
        r = training_setup(small(f"algo={algo}", "data.size=16", word, *task))
        batch = parity.episodes(r, 2)
        found.append(
            [
                parity.gradient(engine, r, parity.net_of(r, parity.SMALL["conv4"], 16), batch, 0.5)
                for engine in (Learn2Learn(), Vectorized(None))
            ]
        )
    (loop, slow), (whole, fast) = found[0]
    assert (loop.loss - whole.loss).abs().max() < 1e-10
    assert parity.farthest(fast, slow, algo) < 1e-10
    assert (found[1][0][0].loss - loop.loss).abs().max() > 1e-6


def test_the_blocks_of_a_backbone():
    bodies = (Conv4(4, 4, False, True), ResNet12((4, 4, 4, 4), 0.1, 0.0, 0.0, 1), ResNet18("small"))
    assert [len(blocks(body.build(1, 16))) for body in bodies] == [4, 4, 4]
    with pytest.raises(UserError, match="this backbone is no sequence of blocks: type reg=mixup"):
        blocks(nn.Flatten())
    with pytest.raises(UserError, match=r"^reg.manifold_mixup.alpha=0"):
        ManifoldMixup(0.0)


def test_it_trains(small, tmp_path):
    train.run(small("reg=[manifold_mixup,rotation]", "train.steps=2"), tmp_path)
