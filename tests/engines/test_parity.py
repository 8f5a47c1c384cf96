"""Every algorithm that conf/algo lists has the same losses, meta-gradients and weights on both engines, in float64."""

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Engine, Episode, TaskResult
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.models.build import build_net
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net
from metalab.training.setup import TrainingSetup
from tests.configs import backbone as made_backbone
from tests.configs import training_setup
from tests.quick import among, quick

ALGORITHMS = sorted(path.stem for path in (Path(conf_dir()) / "algo").glob("*.yaml"))
TASKS, NEAR = 3, 1e-10
PROGRESS = {"mamlpp": (0.02, 0.25, 0.9)}  # first-order and all its steps' losses, first-order, second-order
SIZES = [f"task.{key}={value}" for key, value in (("way", 3), ("train_way", 3), ("shot", 2), ("query", 2))]
RESNET = {"_target_": "metalab.models.ResNet12", "slope": 0.0, "dropout": 0.0, "dropblock": 0.0, "block": 1}
CONV = {"_target_": "metalab.models.Conv4", "pooled": 4, "strided": False, "mean": False}
SMALL = {"conv4": {**CONV, "filters": 4}, "resnet12": {**RESNET, "filters": [4, 4, 4, 4]}}
FULL = {"conv4": {**CONV, "filters": 64}, "resnet12": {**RESNET, "filters": [64, 160, 320, 640]}}


@lru_cache
def recipes(small: Callable[..., DictConfig], algo: str, size: int) -> list[TrainingSetup]:
    """Return the algorithm's recipe on tiny data, second-order and first-order where it has the choice.

    Inner rates are cut to 0.05: on nets this small 0.4 amplifies rounding a millionfold within two steps, as a
    conjugate gradient does that goes on where the Hessian is indefinite.
    """
    words = [*SIZES, "task.train_shot=2", "task.train_query=2", f"data.size={size}", f"algo={algo}"]
    own = small(*words).algo
    if "mini_batch" in own:  # it trains on mini-batches of all classes, not on episodes
        words = [w for w in words if not w.startswith("task.train_")]
        words += ["algo.mini_batch=6", *(f"task.train_{key}=null" for key in ("way", "shot", "query"))]
    words += [
        f"algo.{key}={most}"
        for key, most in (("lr", 0.05), ("steps", 2), ("cg_steps", 2))
        if (own.get(key) or 0) > most
    ]
    words += ["algo.dropout=0"] if "dropout" in own else []  # each engine draws its own
    words += ["algo.draws=fixed"] if "draws" in own else []
    orders = [[f"algo.first_order={value}"] for value in ("false", "true")] if "first_order" in own else [[]]
    return [training_setup(small(*words, *order)) for order in orders]


def net_of(r: TrainingSetup, backbone: dict, size: int) -> Net:
    torch.manual_seed(0)
    made, parts = made_backbone(backbone), r.terms.parts
    net = build_net(made, r.train_algorithm, nn.Sequential(), Normalize([0.3], [0.5]), size, parts).double()
    r.terms.attach(net)
    with torch.no_grad():  # away from the start, where gains are 1 and shifts 0
        for name, p in net.named_parameters():
            if name.startswith(("body.", "head.")):
                p.add_(0.05 * torch.randn_like(p))
    return net


def episodes(r: TrainingSetup, tasks: int = TASKS) -> Episode:
    drawn = r.training("train", tasks)(0)
    return Episode(*(Batch(b.x.double(), b.y, b.unlabelled.double()) for b in drawn))


def gradient(
    engine: Engine, r: TrainingSetup, net: Net, batch: Episode, progress: float
) -> tuple[TaskResult, dict[str, Tensor]]:
    net.zero_grad()
    result = engine.grad(r.objective(), net, batch, torch.full((), progress, dtype=torch.float64))
    return result, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def farthest(mine: dict[str, Tensor], theirs: dict[str, Tensor], algo: str) -> float:
    """Return the largest difference between tensors of the same names.

    Batch norm takes out a convolution's bias: its gradient is rounding alone, which Reptile's Adam scales up.
    """
    assert set(mine) == set(theirs)
    names = [n for n in theirs if algo != "reptile" or not n.replace("/", ".").endswith(".0.bias")]
    return max((mine[n].double() - theirs[n].double()).abs().max().item() for n in names)


def assert_same(mine: TaskResult, theirs: TaskResult) -> None:
    assert (mine.loss - theirs.loss).abs().max() < NEAR * max(1.0, theirs.loss.abs().max().item())
    assert torch.equal(mine.correct, theirs.correct)
    assert set(mine.scalars) == set(theirs.scalars)
    for k, v in theirs.scalars.items():  # three steps of a full net may end at losses of thousands
        assert (mine.scalars[k].double() - v.double()).abs().max() < NEAR * max(1.0, v.double().abs().max().item())


def trained(engine: Engine, r: TrainingSetup, net: Net, batch: Episode, progress: float) -> dict[str, Tensor]:
    """Return all that the net holds after three meta-steps."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        gradient(engine, r, net, batch, progress)
        optimizer.step()
    return net.state_dict()


def compare(small: Callable[..., DictConfig], algo: str, backbone: dict, size: int, tasks: int) -> None:
    try:
        found = recipes(small, algo, size)
    except UserError as error:
        pytest.skip(f"{algo} does not take these tiny tasks: {error}")
    for r, progress in product(found, PROGRESS.get(algo, (0.25,))):
        slow, fast, batch = net_of(r, backbone, size), net_of(r, backbone, size), episodes(r, tasks)
        expected, theirs = gradient(Learn2Learn(), r, slow, batch, progress)
        for chunk in (None, 2):
            try:
                result, mine = gradient(Vectorized(chunk), r, fast, batch, progress)
            except UserError as error:
                pytest.skip(f"engine=vectorized refuses {algo}: {error}")
            assert_same(result, expected)
            assert farthest(mine, theirs, algo) < NEAR
            fast.load_state_dict(net_of(r, backbone, size).state_dict())
        slow.load_state_dict(fast.state_dict())
        weights = trained(Learn2Learn(), r, slow, batch, progress)
        assert farthest(trained(Vectorized(None), r, fast, batch, progress), weights, algo) < NEAR
        evaluated = [e.evaluate(r.objective(), n, batch) for e, n in ((Vectorized(2), fast), (Learn2Learn(), slow))]
        assert_same(*evaluated)


@pytest.mark.parametrize("body", quick(SMALL, among("conv4")))
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_both_engines_agree(algo, body, small):
    compare(small, algo, SMALL[body], 16, TASKS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algo", "body"),
    [*((a, "conv4") for a in ALGORITHMS), *((a, "resnet12") for a in ("anil", "maml", "protonet", "reptile"))],
)
def test_both_engines_agree_at_full_size(algo, body, small):
    compare(small, algo, FULL[body], 28 if body == "conv4" else 16, 2)
