import re
from typing import Any, cast

import pytest
import torch
from torch import nn

from metalab.algorithms.components.inner_loop import inner_step
from metalab.algorithms.components.inner_optimizers import InnerOptimizer
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.models.meta_net import Net
from metalab.regularizers import Penalized, combine
from metalab.regularizers.build import build_regularizers
from metalab.regularizers.dropout import Dropout
from metalab.regularizers.weight_penalties import L2, half_square

CPU = torch.device("cpu")
PROGRESS = torch.zeros(())


def net_of(drop: nn.Module) -> Net:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 3, 3, stride=4), nn.Tanh(), nn.Flatten(), nn.Unflatten(1, (-1, 1, 1)))
    parts = {"head": nn.Linear(48, 5), "rates": nn.ParameterDict({"a": nn.Parameter(torch.ones(2))})}
    return Net(nn.Identity(), body, drop, parts).double()


@pytest.fixture
def episodes(tiny):
    batch = EpisodeSampler(tiny["train"], 5, 1, 2, 2, 0, "train", CPU)(0)
    return batch._replace(support=_double(batch.support), query=_double(batch.query))


def _double(batch):
    return batch._replace(x=batch.x.double(), unlabelled=batch.unlabelled.double())


class OneStep:
    """MAML with one step, written out."""

    def parts(self, body: nn.Module, features: int) -> dict[str, nn.Module]:
        return {}

    def adapt(self, learner, support, loss, steps):
        for _ in range(steps):
            learner, _ = inner_step(
                learner, support, loss, InnerOptimizer("sgd", 0.1), ["head.weight", "head.bias"], False
            )
        yield learner


def gradients(net: nn.Module, episodes, terms: Any, steps: int = 1) -> dict[str, torch.Tensor | None]:
    net.zero_grad()
    objective = QueryLoss(
        OneStep(), steps, terms.inner(cross_entropy), terms.outer(cross_entropy), predict_transductive
    )
    Learn2Learn().grad(Penalized(objective, terms.penalty), net, episodes, PROGRESS)
    return {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}


def test_l2_adds_weight_times_theta_to_the_meta_gradient(episodes):
    net = net_of(nn.Sequential())
    plain, decayed = (gradients(net, episodes, combine(list(r))) for r in ((), (L2(0.3, 0.0),)))
    for name, p in net.named_parameters():
        if name.startswith("rates."):
            assert decayed[name] is None  # learned rates are not decayed
            continue
        change = cast(torch.Tensor, decayed[name]) - cast(torch.Tensor, plain[name])
        torch.testing.assert_close(change, 0.3 * p.detach(), rtol=1e-10, atol=1e-12)


def test_inner_l2_adds_inner_times_theta_to_the_inner_gradient(episodes):
    net = net_of(nn.Sequential())
    learner, support = TaskLearner(net, True), task(episodes, 0).support
    loss = L2(0.0, 0.7).hooks().inner(cross_entropy)
    plain = learner.grad(lambda at: cross_entropy(at, support))
    decayed = learner.grad(lambda at: loss(at, support))
    for name, p in net.named_parameters():
        expected = 0.7 * p.detach() if not name.startswith("rates.") else torch.zeros_like(p)
        torch.testing.assert_close(decayed[name] - plain[name], expected, rtol=1e-10, atol=1e-12)


def test_inner_l2_reaches_the_meta_gradient_and_not_the_outer_loss(episodes):
    net = net_of(nn.Sequential())
    plain, inner = (gradients(net, episodes, combine(list(r))) for r in ((), (L2(0.0, 0.7),)))
    assert not torch.allclose(cast(Any, plain["head.weight"]), cast(Any, inner["head.weight"]))
    plain, inner = (gradients(net, episodes, combine(list(r)), steps=0) for r in ((), (L2(0.0, 0.7),)))
    assert torch.equal(cast(Any, plain["head.weight"]), cast(Any, inner["head.weight"]))


def test_half_square_is_over_body_and_head():
    tensors = {"body.w": torch.tensor([3.0]), "head.b": torch.tensor([4.0]), "rates.a": torch.tensor([100.0])}
    assert half_square(tensors) == 12.5


def test_the_loss_that_people_are_shown_has_no_penalty(episodes):
    net, terms = net_of(nn.Sequential()), combine([L2(0.3, 0.0)])
    plain = QueryLoss(OneStep(), 1, cross_entropy, cross_entropy, predict_transductive)
    a = Learn2Learn().grad(plain, net, episodes, PROGRESS)
    b = Learn2Learn().grad(Penalized(plain, terms.penalty), net, episodes, PROGRESS)
    assert torch.equal(a.scalars["loss"], b.scalars["loss"])
    half = sum(p.square().sum() for n, p in net.named_parameters() if not n.startswith("rates.")) / 2
    torch.testing.assert_close(b.loss - a.loss, torch.full((2,), 0.3 * cast(torch.Tensor, half).item()).double())


def test_dropout_drops_features_in_training_only(episodes):
    net = net_of(combine([Dropout(0.5)]).drop or nn.Sequential())
    x = episodes.query.x[0]
    torch.manual_seed(1)
    net.train()
    dropped = net("features", x)
    share = (dropped == 0).double().mean()
    assert 0.4 < share < 0.6
    net.eval()
    whole = net("features", x)
    assert not (whole == 0).any()
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])
    torch.testing.assert_close(net("logits", x), net.get_submodule("head")(whole.flatten(1)))


def test_several_are_combined():
    terms = combine([Dropout(0.2), L2(1.0, 0.5), L2(2.0, 0.25)])
    assert [m.p for m in cast(nn.Sequential, terms.drop)] == [0.2]
    learner = TaskLearner(net_of(nn.Sequential()), False)
    assert torch.equal(cast(Any, terms.penalty(learner)), 3 * half_square(learner.parameters()))
    one = cast(Any, lambda model, batch: torch.tensor(1.0).double())
    expected = 1 + 0.75 * half_square(learner.parameters())
    torch.testing.assert_close(terms.inner(one)(learner, cast(Any, None)), expected)
    assert combine([]).penalty(learner) is None
    assert combine([]).inner(cross_entropy) is cross_entropy


L2_NODE = {"_target_": "metalab.regularizers.L2", "weight": 0.1, "inner": 0.2}


def test_inner_l2_is_refused_where_there_are_no_inner_steps():
    message = "reg.l2.inner works on inner steps and this algorithm has none; set reg.l2.inner=0"
    with pytest.raises(UserError, match=re.escape(message)):
        build_regularizers({"l2": L2_NODE}, steps=0)
    build_regularizers({"l2": L2_NODE}, steps=1)
    build_regularizers({"l2": L2_NODE | {"inner": 0.0}}, steps=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L2(-1.0, 0.0), "reg.l2 has weight=-1.0, inner=0.0; both must be 0 or more"),
        (lambda: L2(0.0, -1.0), "reg.l2 has weight=0.0, inner=-1.0; both must be 0 or more"),
        (lambda: Dropout(1.0), "reg.dropout.p=1.0; a share from 0 up to but not including 1 is expected"),
        (lambda: Dropout(-0.1), "reg.dropout.p=-0.1; a share from 0"),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make()
