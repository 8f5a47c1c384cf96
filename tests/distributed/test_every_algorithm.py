"""Two shares of a meta-batch come to what the whole comes to, in float64, of every algorithm: without a second process.

The one message between the processes is handed over by the test: tests/distributed/test_equal_to_one.py has it sent.
"""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from metalab.core.interfaces import Batch, Episode, TaskResult
from metalab.distributed import group
from metalab.engines.buffers import learnable
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.shared import SharedEngine
from metalab.models.build import build_net
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net
from metalab.training.setup import TrainingSetup
from tests.configs import training_setup
from tests.distributed.test_equal_to_one import ALGORITHMS, NEAR, words_of
from tests.distributed.test_torchrun import SECOND
from tests.quick import among, quick

TASKS = 3
PROGRESS = torch.tensor(0.25, dtype=torch.float64)


def net_of(r: TrainingSetup) -> Net:
    torch.manual_seed(0)
    net = build_net(r.backbone, r.train_algorithm, torch.nn.Sequential(), Normalize([0.3], [0.5]), 16, r.terms.parts)
    return net.double().train()


def state_of(net: Net, result: TaskResult) -> dict[str, Tensor]:
    """Return all that a meta-step leaves behind: gradients, buffers and the tasks' results."""
    found = {f"gradient of {name}": p.grad for name, p in learnable(net).items() if p.grad is not None}
    found |= {f"buffer {name}": value for name, value in net.named_buffers()}
    found |= {f"scalar {name}": value for name, value in result.scalars.items()}
    return {name: t.double() for name, t in found.items()} | {"loss": result.loss, "right": result.correct.double()}


def one_share(monkeypatch, rank: int, net: Net, r: TrainingSetup, whole: Episode, other: Tensor | None):
    """Take a meta-step as one of two processes; return what it leaves behind and the numbers that it sent."""
    for key, value in (SECOND | {"RANK": str(rank)}).items():
        monkeypatch.setenv(key, value)
    sent: list[Tensor] = []

    def add(values: Tensor) -> None:
        sent.append(values.clone())
        if other is not None:
            values.add_(other)

    monkeypatch.setattr(group, "add", add)
    monkeypatch.setattr(group, "anywhere", lambda flags: flags)
    engine = SharedEngine(Learn2Learn(), TASKS)
    mine = Episode(*(Batch(*(t[engine._share] for t in batch)) for batch in whole))
    torch.manual_seed(5)
    result = engine.grad(r.objective(), net, mine, PROGRESS)
    return state_of(net, result), sent[0]


@pytest.mark.parametrize("algo", quick(ALGORITHMS, among("baseline", "maml", "mann", "protonet", "reptile")))
def test_two_shares_are_equal_to_the_whole(small, monkeypatch, algo):
    words = ["task.way=3", "task.train_way=3", "task.query=2", f"train.meta_batch={TASKS}", *words_of(algo)]
    r = training_setup(small(*words))
    net = net_of(r)
    drawn = r.training("train", TASKS)(0)
    whole = Episode(*(Batch(b.x.double(), b.y, b.unlabelled.double()) for b in drawn))
    alone = deepcopy(net)
    torch.manual_seed(5)
    expected = state_of(alone, Learn2Learn().grad(r.objective(), alone, whole, PROGRESS))
    _, first = one_share(monkeypatch, 0, deepcopy(net), r, whole, None)
    found, second = one_share(monkeypatch, 1, deepcopy(net), r, whole, first)
    assert len(first) == len(second)
    assert set(found) == set(expected)
    for name, value in expected.items():
        if value.numel():
            assert ((found[name] - value).abs() / value.abs().max().clamp(min=1)).max() < NEAR, name
