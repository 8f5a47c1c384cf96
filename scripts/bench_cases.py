"""What bench.py races: the cases, and each contestant with the same weights and episodes."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from bench_loop import cnn4, user_loop
from torch import Tensor, nn

from metalab.algorithms.gradient_based.anil import ANIL
from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.interfaces import Batch, Engine, Episode
from metalab.engines.auto import Workload
from metalab.engines.cuda_graph import CUDAGraphEngine
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.precision import Precision, tf32
from metalab.engines.vectorized import Vectorized
from metalab.models.backbones import Conv4
from metalab.models.conv_autograd import Conv2d
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net

USER, LOOP, FAST = "learn2learn, by hand", "engine=learn2learn", "engine=vectorized"
USER_TF32 = f"{USER}, TF32"  # about torch's own default, which has TF32 in convolutions alone
TORCH = ", torch's convolutions"  # of which an engine's name is followed
GRAPHS = f"{FAST} engine.graphs=true"


@dataclass(frozen=True)
class Case:
    """tasks of way x (shot + query) images [channels,size,size], inner steps, filters of conv4."""

    tasks: int
    way: int
    shot: int
    query: int
    channels: int
    size: int
    steps: int
    filters: int


CASES = {
    "omniglot 5w1s x 32 x 1": Case(32, 5, 1, 1, 1, 28, 1, 64),
    "omniglot 20w1s x 16 x 5": Case(16, 20, 1, 1, 1, 28, 5, 64),
    "miniimagenet 5w1s x 4 x 5": Case(4, 5, 1, 15, 3, 84, 5, 32),
    "miniimagenet 5w5s x 4 x 5": Case(4, 5, 5, 15, 3, 84, 5, 32),
    "miniimagenet 5w1s x 32 x 5": Case(32, 5, 1, 15, 3, 84, 5, 32),
}
SMOKE = {"smoke 2w1s x 3 x 2": Case(3, 2, 1, 1, 1, 16, 2, 4)}
ALGORITHMS = {
    "maml": lambda way: MAML(way, 0.01, False, "learned"),
    "fomaml": lambda way: MAML(way, 0.01, True, "learned"),
    "anil": lambda way: ANIL(way, 0.01, False, "learned"),
    "protonet": ProtoNet,
}


def episodes(case: Case, device: torch.device) -> Episode:
    """Return random images, already on the device."""
    generator = torch.Generator().manual_seed(0)

    def batch(each: int) -> Batch:
        x = torch.rand(case.tasks, case.way * each, case.channels, case.size, case.size, generator=generator)
        y = torch.arange(case.way).repeat(case.tasks, each)
        return Batch(x.to(device), y.to(device), x[:, :0].to(device))

    return Episode(batch(case.shot), batch(case.query))


def contestants(
    case: Case,
    algo: str,
    device: torch.device,
    precisions: list[Precision],
    evaluating: bool = False,
    torch_convolutions: bool = False,
) -> dict[str, Callable[[], Tensor]]:
    """Return what is raced: name -> one meta-step's gradient, which returns the mean loss.

    evaluating: an evaluation of as many tasks in its place. torch_convolutions: also the engines with torch's own.
    """
    torch.manual_seed(0)
    algorithm: Any = ALGORITHMS[algo](case.way)
    body = Conv4(case.filters, 4, False, False).build(case.channels, case.size)
    features = case.filters * (case.size // 16) ** 2
    parts = algorithm.parts(body, features)
    net = Net(Normalize([0.0] * case.channels, [1.0] * case.channels), body, nn.Sequential(), parts).to(device)
    batch, progress = episodes(case, device), torch.zeros((), device=device)
    objective = QueryLoss(algorithm, case.steps, cross_entropy, cross_entropy, predict_transductive)
    theirs = cnn4(net, case.way, case.filters, case.channels, features)

    def by(engine: Engine, net: Net = net) -> Callable[[], Tensor]:
        def run() -> Tensor:
            torch.backends.cudnn.benchmark = False  # as metalab leaves it, so that a run and its repetition are alike
            net.zero_grad()
            result = (
                engine.evaluate(objective, net, batch) if evaluating else engine.grad(objective, net, batch, progress)
            )
            return result.loss.mean()

        return run

    hand = user_loop(algo, theirs, batch, 0.01, case.steps, evaluating)

    def by_hand(allowed: bool) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with tf32(allowed):
                return hand()

        return run

    found = {USER: by_hand(False), LOOP: by(Learn2Learn())}
    if "tf32" in precisions:
        found |= {USER_TF32: by_hand(True)}
    chunks = [None] + ([4] if device.type == "cpu" and case.tasks > 4 else [])
    for chunk in chunks:
        name = FAST + (f" engine.chunk={chunk}" if chunk else "")
        found |= {name: by(Vectorized(chunk))}
    if torch_convolutions:
        plain = with_torch_convolutions(net)
        found |= {f"{name}{TORCH}": by(e, plain) for name, e in ((LOOP, Learn2Learn()), (FAST, Vectorized(None)))}
    found |= {f"{FAST} engine.precision={p}": by(Vectorized(None, p)) for p in precisions}
    if device.type == "cuda" and not evaluating:
        in_full = {GRAPHS: by(CUDAGraphEngine(Vectorized(None)))}
        found |= in_full | {
            f"{GRAPHS} engine.precision={p}": by(CUDAGraphEngine(Vectorized(None, p))) for p in precisions
        }
    return found


def work(case: Case, algo: str, device: torch.device) -> Workload:
    """Return what engine=auto goes by."""
    steps = 0 if algo == "protonet" else case.steps
    return Workload(device.type, algo, case.size, case.tasks, case.way * (case.shot + case.query), steps, case.filters)


def with_torch_convolutions(net: Net) -> Net:
    """Return a copy of a net whose convolutions are torch's, with the derivatives that torch has of them."""
    plain = deepcopy(net)
    for module in plain.modules():
        if type(module) is Conv2d:
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
    return plain
