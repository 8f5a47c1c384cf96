"""P>M>F: a loop with torch's own Adam, the rate that the support chooses, and both engines."""

import copy

import pytest
import torch
import torch.nn.functional as F

from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.algorithms.transfer_learning.pmf import PMF
from metalab.core.errors import UserError
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one

VALUES = {"way": WAY, "lr": None, "rates": [0.0, 1e-3, 1e-2], "temperature": 0.1, "crop": 0.125, "flip": 0.5}
VALUES |= {"jitter": 0.4, "probability": 0.9}


def made(**more) -> PMF:
    return PMF(**{**VALUES, **more})


def models(algorithm, net, support, steps):
    return list(algorithm.adapt(learner_of(net), support, cross_entropy, steps))


def by_means(net, support, x):
    known, asked = (net("features", each).flatten(1) for each in (support.x, x))
    means = torch.stack([known[support.y == k].mean(0) for k in range(WAY)])
    return F.cosine_similarity(asked[:, None], means, dim=-1) / net.get_parameter("sharpness.log").exp()


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
def test_the_body_is_fine_tuned_as_by_torchs_adam(lr):
    """Without changed copies, so that the loop needs none of ours: images are classified by their own means."""
    algorithm = made(lr=lr, probability=0.0)
    net, (support, query) = net_of(algorithm), one(episodes())
    found = models(algorithm, net, support, 3)
    tuned = copy.deepcopy(net)
    optimizer = torch.optim.Adam(tuned.get_submodule("body").parameters(), lr=lr)
    for step in range(4):
        expected = by_means(tuned, support, query.x)
        # Adam makes whole steps of gradients that are rounding alone, as of a bias before batch norm: what it cancels
        assert (found[step](query.x) - expected).abs().max() < 1e-6
        optimizer.zero_grad()
        F.cross_entropy(by_means(tuned, support, support.x), support.y).backward()
        optimizer.step()
    assert (found[3](query.x) - found[0](query.x)).abs().max() > 1e-3


def test_steps_classify_changed_copies_and_the_same_ones_in_every_episode():
    net, (support, query) = net_of(made()), one(episodes())
    plain, changed, again = (
        models(made(lr=1e-2, probability=p), net, support, 3)[-1](query.x) for p in (0.0, 1.0, 1.0)
    )
    assert torch.equal(changed, again)
    assert (changed - plain).abs().max() > 1e-3
    still = models(made(lr=1e-2, probability=1.0, crop=0.0, flip=0.0, jitter=0.0), net, support, 3)[-1](query.x)
    assert torch.allclose(still, plain, atol=1e-9)


def test_the_rate_is_the_one_that_classifies_the_rest_of_the_support_best():
    """By hand: prototypes and steps of each class's first image, the right answers among the others."""
    algorithm, seen = made(rates=[0.0, 3e-3, 3e-2, 0.3]), set()
    for seed in range(8):
        net, (support, _) = net_of(algorithm), one(episodes(shot=5))
        torch.manual_seed(seed)
        support = support._replace(x=support.x + 2.0 * torch.rand_like(support.x))
        first = torch.tensor([int((support.y == k).nonzero()[0]) for k in range(WAY)])
        others = torch.tensor([i for i in range(len(support.y)) if i not in first.tolist()])
        known = support._replace(x=support.x[first], y=torch.arange(WAY))
        right = []
        for rate in algorithm.rates:
            tuned = made(lr=rate) if rate else made(lr=1.0)
            model = models(tuned, net, known, 3 if rate else 0)[-1]
            right.append(int((model(support.x[others]).argmax(1) == support.y[others]).sum()))
        chosen = algorithm._chosen(learner_of(net), support, cross_entropy, 3)
        assert chosen == algorithm.rates[right.index(max(right))]
        seen.add(float(chosen))
    assert len(seen) > 1


def test_of_one_image_a_class_nothing_is_chosen_and_nothing_changes():
    algorithm = made()
    net, (support, query) = net_of(algorithm), one(episodes(shot=1))
    before, *_, after = models(algorithm, net, support, 3)
    assert torch.equal(before(query.x), after(query.x))


@pytest.mark.parametrize("more", [{}, {"lr": 1e-3}])
def test_both_engines_agree(more):
    algorithm = made(**more)
    objective = QueryLoss(algorithm, 2, cross_entropy, cross_entropy, predict_transductive)
    far, gradient = apart(objective, net_of(algorithm), episodes())
    assert far < 1e-7  # of Adam's steps: see above
    assert gradient["sharpness.log"].abs().max() > 0


def test_what_reads_weights_in_inner_steps_finds_them():
    """reg=l2 on the inner loss ended in a traceback."""
    net, (support, _) = net_of(made()), one(episodes())

    def with_weights(model, batch):
        return cross_entropy(model, batch) + sum(p.square().sum() for p in model.parameters().values())

    first, *_, last = made(lr=1e-2).adapt(learner_of(net), support, with_weights, 2)
    assert not torch.equal(first(support.x), last(support.x))


def test_a_body_that_learns_nothing_is_refused():
    with pytest.raises(UserError, match=r"nothing of it learns: type backbone\.trainable=all"):
        made().parts(torch.nn.Identity(), 4)


@pytest.mark.parametrize(
    ("key", "value"), [("lr", 0.0), ("rates", []), ("rates", [-1.0]), ("temperature", 0.0), ("jitter", 1.5)]
)
def test_a_value_out_of_range_is_refused(key, value):
    with pytest.raises(UserError, match=rf"^algo\.{key}="):
        made(**{key: value})
