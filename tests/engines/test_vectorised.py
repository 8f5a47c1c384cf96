"""The vectorised engine against the reference engine, in float64."""

import pytest
import torch
from torch import Tensor, nn

from metalab.algorithms.anil import ANIL
from metalab.algorithms.maml import MAML
from metalab.algorithms.metasgd import MetaSGD
from metalab.algorithms.protonet import ProtoNet
from metalab.algorithms.reptile import Reptile
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorised import Vectorised
from metalab.interfaces import Algorithm, Batch, Engine, Episode, TaskResult
from metalab.models.backbones import Conv4, ResNet12
from metalab.models.layers import Normalise
from metalab.models.net import Net
from metalab.objectives.distance import ParameterDistance
from metalab.objectives.judge import cross_entropy, together
from metalab.objectives.query import QueryLoss

WAY, SHOT, QUERY, TASKS, SIZE = 3, 2, 2, 3, 16
PROGRESS = torch.zeros(())


def episodes() -> Episode:
    generator = torch.Generator().manual_seed(0)

    def batch(each: int) -> Batch:
        x = torch.rand(TASKS, WAY * each, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
        return Batch(x, torch.arange(WAY).repeat(TASKS, each), x[:, :0])

    return Episode(batch(SHOT), batch(QUERY))


CASES = {
    "maml": (MAML(WAY, 0.4, False, "learned"), QueryLoss, 2),
    "fomaml": (MAML(WAY, 0.4, True, "learned"), QueryLoss, 2),
    "protomaml": (MAML(WAY, 0.001, False, "prototype"), QueryLoss, 2),
    "anil": (ANIL(WAY, 0.4, False, "learned"), QueryLoss, 2),
    "metasgd": (MetaSGD(WAY, 0.005, 0.4, False), QueryLoss, 2),
    "reptile": (Reptile(WAY, 1e-2, 0.9, 4), ParameterDistance, 3),
    "protonet": (ProtoNet(WAY), QueryLoss, 0),
}
BODIES = {"conv4": Conv4(4, 4, False, False), "resnet12": ResNet12((4, 4, 4, 4), 0.0, 0.0, 0.0, 1)}


def net_of(algorithm: Algorithm, body: str) -> Net:
    torch.manual_seed(0)
    inside = BODIES[body].build(1, SIZE)
    net = Net(Normalise([0.0], [1.0]), inside, nn.Sequential(), algorithm.parts(inside, 4)).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith(("body.", "head.")):
                p.add_(0.05 * torch.randn_like(p))
    return net


def trained(
    engine: Engine, case: str, body: str
) -> tuple[TaskResult, dict[str, Tensor], dict[str, Tensor], TaskResult]:
    """The first meta-step's result and gradient, the weights after three, and an evaluation with them."""
    algorithm, kind, steps = CASES[case]
    net = net_of(algorithm, body)
    objective = kind(algorithm, steps, cross_entropy, cross_entropy, together)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    steps_ = []
    for _ in range(3):
        optimiser.zero_grad()
        result = engine.grad(objective, net, episodes(), PROGRESS)
        steps_.append((result, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}))
        optimiser.step()
    return *steps_[0], net.state_dict(), engine.evaluate(objective, net, episodes())


def exact(case: str, name: str) -> bool:
    """Batch norm takes out a convolution's bias: its gradient is rounding alone, which Reptile's Adam scales up."""
    return case != "reptile" or not name.replace("/", ".").endswith(".0.bias")


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("case", CASES)
def test_the_two_engines_agree_on_losses_gradients_and_what_three_meta_steps_make(case, body):
    loop, slow, weights, tested = trained(Learn2Learn(), case, body)
    for engine in (Vectorised(None), Vectorised(2)):
        result, gradient, after, evaluated = trained(engine, case, body)
        assert set(gradient) == set(slow)
        assert (result.loss - loop.loss).abs().max() < 1e-10
        assert torch.equal(result.correct, loop.correct)
        assert max((gradient[n] - g).abs().max() for n, g in slow.items() if exact(case, n)) < 1e-10
        assert max((after[n] - w).abs().max() for n, w in weights.items() if exact(case, n)) < 1e-10
        assert (evaluated.loss - tested.loss).abs().max() < 1e-10
        assert torch.equal(evaluated.correct, tested.correct)
