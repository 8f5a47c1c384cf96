"""What eval.bn's modes mean."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from metalab.algorithms.build import build_algorithm
from metalab.algorithms.objectives.prediction import PREDICTIONS, cross_entropy
from metalab.core.interfaces import TaskResult
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.engines.learn2learn import Learn2Learn, TaskLearner, task
from metalab.evaluation.measure import measure, outcome, outcomes
from metalab.evaluation.objectives import measured_objective
from metalab.models.build import build_net, normalization
from metalab.models.layers import BatchStatNorm, Normalize, estimate_running, running_statistics
from metalab.regularizers import Hooks
from tests.configs import backbone as made_backbone

MAML = ("algo=maml", "train.meta_batch=1", "algo.steps=1", "algo.test_steps=2")

CPU = torch.device("cpu")


@pytest.fixture
def net(small, tiny):
    """A net of MAML with weights that are not those of the start."""
    cfg = small(*MAML)
    torch.manual_seed(0)
    _, algorithm = build_algorithm(cfg.algo, 5, test=True)
    net = build_net(made_backbone(cfg.backbone), algorithm, nn.Sequential(), normalization(tiny["train"].images), 16)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = tiny["train"].images[:200] / 255
    estimate_running(net, [lambda: net("features", x)])
    return net.eval()


@pytest.fixture
def episode(tiny):
    return EpisodeSampler(tiny["test"], 5, 2, 2, 1, 0, "test", CPU)(0)


def logits(algo, net, episode, bn):
    """Return the logits [queries, way] of one episode as objectives predict them."""

    def objective(learner, one, progress):
        *_, model = algo.adapt(learner, one.support, cross_entropy, 2)
        found = PREDICTIONS[bn](model, one.support.x, one.query.x)
        return TaskResult(found.sum(), found.argmax(1) == one.query.y, {"logits": found, "loss": found.sum()}, {})

    return outcome(Learn2Learn(), objective, net, episode, bn).scalars["logits"][0]


@pytest.mark.parametrize("algo", ["maml", "protonet"])
@pytest.mark.parametrize("bn", ["batch", "support", "one", "running"])
def test_in_batch_mode_alone_a_query_leans_on_the_other_queries(small, net, episode, algo, bn):
    _, algorithm = build_algorithm(small(f"algo={algo}").algo, 5, test=True)
    before = logits(algorithm, net, episode, bn)
    changed = episode.query.x.clone()
    changed[0, 0] = 1 - changed[0, 0]
    after = logits(algorithm, net, episode._replace(query=episode.query._replace(x=changed)), bn)
    assert not torch.allclose(before[0], after[0], atol=1e-4)
    if bn == "batch":
        assert (before[1:] - after[1:]).abs().max() > 1e-3
    else:
        torch.testing.assert_close(before[1:], after[1:], rtol=1e-5, atol=1e-5)


def test_one_mode_is_the_support_and_one_query_by_hand(small, net, episode):
    _, algorithm = build_algorithm(small(*MAML).algo, 5, test=True)
    found = logits(algorithm, net, episode, "one")
    support, query = task(episode, 0)
    *_, adapted = algorithm.adapt(TaskLearner(net, True), support, cross_entropy, 2)
    for i, x in enumerate(query.x):
        alone = adapted(torch.cat([support.x, x[None]]))[-1]
        torch.testing.assert_close(found[i], alone, rtol=1e-5, atol=1e-5)


class Torchs(nn.BatchNorm2d):
    """torch's own batch norm in the place of a BatchStatNorm."""

    def forward(self, x: Tensor, then_pool: bool = False) -> Tensor:
        y = super().forward(x)
        return F.max_pool2d(y, 2).relu() if then_pool else y


def twin(net: nn.Module) -> nn.Module:
    """Return the net with torch's own batch norm."""
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, BatchStatNorm):
                norm = Torchs(len(child.weight), eps=child.eps)
                norm.load_state_dict(child.state_dict(), strict=False)
                setattr(parent, name, norm)
    return net


def test_running_statistics_are_what_torchs_update_bn_estimates(small, tiny):
    cfg = small()
    torch.manual_seed(0)
    _, algorithm = build_algorithm(cfg.algo, 5, test=True)
    net = build_net(made_backbone(cfg.backbone), algorithm, nn.Sequential(), Normalize([0.4], [0.2]), 16)
    body = nn.Sequential(net.normalize, net.body)
    theirs = twin(body)
    batches = [tiny["train"].images[i::7][:30] / 255 for i in range(5)]
    estimate_running(body, [lambda x=x: body(x) for x in batches])
    update_bn(batches, theirs)
    ours = {k: v for k, v in body.state_dict().items() if "running" in k}
    assert len(ours) == 8
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-4, atol=1e-5)
    x = tiny["val"].images[:9] / 255
    theirs.eval()
    with running_statistics(), torch.no_grad():
        torch.testing.assert_close(body.eval()(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_measure_takes_the_first_episodes_of_the_source(small, net, tiny):
    how, algorithm = build_algorithm(small(*MAML, "algo.test_steps=1").algo, 5, test=True)
    source = EpisodeSampler(tiny["test"], 5, 1, 2, 4, 0, "test", CPU)
    objective = measured_objective(how, algorithm, "batch", 5, Hooks())
    whole, losses = measure(outcomes(Learn2Learn(), objective, net, source, 8, "batch"), 8)
    some, _ = measure(outcomes(Learn2Learn(), objective, net, source, 5, "batch"), 5)
    assert whole.dtype == losses.dtype == np.float64
    assert (len(whole), len(some)) == (8, 5)
    assert np.array_equal(whole[:5], some)
    assert np.isfinite(losses).all()
