"""torchattacks and foolbox on the same adapted model, which is not transductive: they find what our attacks find."""

from collections.abc import Callable

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.attacks.base import Attack, l2_norm
from metalab.attacks.square import Square
from metalab.core.interfaces import Algorithm, Batch, Model
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.engines.learn2learn import TaskLearner, task
from metalab.models.backbones import Conv4
from metalab.models.layers import Normalize, estimate_running, running_statistics
from metalab.models.meta_net import Net
from tests.attacks.oracles import FURTHER, PAIRS, Adapted, ours
from tests.quick import among, quick

CPU = torch.device("cpu")
ONE = ProtoNet(5)


@pytest.fixture(scope="module")
def net(tiny) -> Net:
    """A ProtoNet after some steps on the tiny data, with running statistics."""
    torch.manual_seed(0)
    net = Net(Normalize([0.3], [0.3]), Conv4(8, 3, False, False).build(1, 16), nn.Sequential(), {})
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    source = EpisodeSampler(tiny["train"], 5, 1, 5, 1, 0, "train", CPU)
    for step in range(80):
        support, query = task(source(step), 0)
        [model] = ProtoNet(5).adapt(TaskLearner(net, True), support, cross_entropy, 0)  # type: ignore[arg-type]
        optimizer.zero_grad()
        cross_entropy(model, query).backward()
        optimizer.step()
    estimate_running(net, [lambda i=i: net("features", source(100 + i).query.x[0]) for i in range(20)])
    return net.eval()


def compare(
    net: Net,
    source: EpisodeSampler,
    episodes: int,
    attack: Attack,
    oracle: Callable[[Model, Batch], Tensor],
    algorithm: Algorithm = ONE,
) -> tuple[float, float, float]:
    """Return the accuracy in points under our attack at its end, at all it tried, and under the oracle."""
    torch.manual_seed(0)
    sums = torch.zeros(3)
    with running_statistics():
        for step in range(episodes):
            support, query = task(source(step), 0)
            learner = TaskLearner(net, False).replace({n: p.detach() for n, p in net.named_parameters()})
            *_, model = algorithm.adapt(learner, support, cross_entropy, 2)  # type: ignore[arg-type]
            kept = [f(model, query).float().mean() for f in (ours(attack, True), ours(attack, False), oracle)]
            sums += torch.stack(kept)
    return tuple((100 * sums / episodes).tolist())  # type: ignore[return-value]


def judge(found: tuple[float, float, float], name: str, allowed: float) -> None:
    end, tried, oracle = found
    clean_like = end if "apgd" not in name else tried
    assert abs(clean_like - oracle) <= allowed, found
    assert oracle >= tried - allowed, found  # no oracle breaks more than ours does


@pytest.mark.parametrize("name", quick(PAIRS, among("fgsm", "pgd")))
def test_oracles_agree_on_some_episodes(name, net, tiny):
    source = EpisodeSampler(tiny["test"], 5, 1, 7, 1, 0, "test", CPU)
    judge(compare(net, source, 8, *PAIRS[name]), name, 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PAIRS, *FURTHER])
def test_oracles_agree_within_a_point_over_100_episodes(name, net, tiny):
    source = EpisodeSampler(tiny["test"], 5, 1, 7, 1, 0, "test", CPU)
    judge(compare(net, source, 100, *{**PAIRS, **FURTHER}[name]), name, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd", "pgd_l2"])
def test_oracles_agree_on_a_net_adapted_by_mamls_steps(name, net, tiny):
    """With the head that equals a ProtoNet's, moved by two inner steps with all of the net."""
    adapted = MAML(5, 0.01, False, "prototype")
    with_head = Net(net.normalize, net.body, nn.Sequential(), adapted.parts(net.body, 8)).eval()  # type: ignore[arg-type]
    source = EpisodeSampler(tiny["test"], 5, 1, 7, 1, 0, "test", CPU)
    judge(compare(with_head, source, 100, *{**PAIRS, **FURTHER}[name], algorithm=adapted), name, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.3, 0.8])
def test_square_under_l2_finds_what_torchattacks_finds_over_25_episodes(eps, net, tiny):
    """They draw other windows; theirs asks once more than n_queries, and keeps off the last row and column."""

    def oracle(model: Model, query: Batch) -> Tensor:
        seed = int(torch.randint(2**31, ()))  # it seeds torch's own generator, with the same number in each call
        x = torchattacks.Square(Adapted(model).eval(), "L2", eps, n_queries=199, seed=seed)(query.x, query.y)
        assert l2_norm(x - query.x).max() <= eps + 1e-5
        return model(x).argmax(1) == query.y

    source = EpisodeSampler(tiny["test"], 5, 1, 7, 1, 0, "test", CPU)
    end, tried, theirs = compare(net, source, 25, Square(eps, "l2", 200, 0.8), oracle)
    clean, *_ = compare(net, source, 25, Square(0.0, "l2", 1, 0.8), lambda model, query: query.y == query.y)
    assert all(10 < kept < clean - 10 for kept in (end, tried, theirs))
    assert abs(tried - theirs) <= 3.0, (end, tried, theirs)
