"""The inner optimizers against torch.optim, and their derivatives where a gradient is 0."""

import pytest
import torch
from torch import nn

from metalab.algorithms.components.inner_optimizers import RULES, InnerOptimizer
from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from tests.algorithms.made import WAY, episodes, far, net_of, objective, outer

THEIRS = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}


@pytest.mark.parametrize("inner", THEIRS)
def test_five_steps_are_those_of_torchs_optimizer(inner):
    torch.manual_seed(0)
    theta = torch.randn(6, dtype=torch.float64)
    gradients = torch.randn(5, 6, dtype=torch.float64)
    gradients[:, 0] = 0
    parameter = nn.Parameter(theta.clone())
    optimizer = THEIRS[inner]([parameter], lr=0.1)
    ours, how = {"w": theta}, InnerOptimizer(inner, 0.1)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        ours, how = how.step(ours, {"w": gradient})
        assert (ours["w"] - parameter).abs().max() < 1e-12
    assert (ours["w"] - theta).abs().max() > 0.05


def test_every_rule_is_held_to_torchs_but_the_one_that_it_has_not():
    assert set(RULES) == {*THEIRS, "sgd_hd"}


def test_a_rate_grows_by_the_product_of_two_gradients_in_turn():
    """Baydin et al. 2018, algorithm 4, by hand: all parameters have one rate."""
    how, theta = InnerOptimizer("sgd_hd", 0.1), {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.5])}
    theta, how = how.step(theta, {"w": torch.tensor([10.0, -20.0]), "b": torch.tensor([4.0])})
    assert torch.allclose(theta["w"], torch.tensor([0.0, 4.0]), atol=1e-6)
    theta, how = how.step(theta, {"w": torch.tensor([20.0, -5.0]), "b": torch.tensor([-25.0])})
    rate = 0.1 + 1e-3 * (10 * 20 + 20 * 5 - 4 * 25)  # 0.3
    assert torch.allclose(theta["w"], torch.tensor([0.0, 4.0]) - rate * torch.tensor([20.0, -5.0]), atol=1e-6)
    assert torch.allclose(theta["b"], torch.tensor([0.5 - 0.4 + rate * 25]))
    theta, how = how.step(theta, {"w": torch.tensor([0.0, 0.0]), "b": torch.tensor([2.0])})
    assert torch.allclose(torch.as_tensor(how.lr), torch.tensor(rate - 1e-3 * 50))


@pytest.mark.parametrize("inner", RULES)
def test_the_second_order_is_finite_where_a_gradient_is_0_and_right_elsewhere(inner):
    start = torch.tensor([0.0, 0.5, -1.5], dtype=torch.float64, requires_grad=True)

    def stepped(theta: torch.Tensor) -> torch.Tensor:
        new, how = {"w": theta}, InnerOptimizer(inner, 0.1)
        for _ in range(2):
            new, how = how.step(new, {"w": new["w"] ** 3})  # of 1/4 w^4
        return new["w"].square().sum()

    (gradient,) = torch.autograd.grad(stepped(start), start)
    assert gradient.isfinite().all()
    h = 1e-6 * torch.eye(3, dtype=torch.float64)
    slopes = torch.stack([(stepped(start + e) - stepped(start - e)) / 2e-6 for e in h])
    assert (gradient - slopes)[1:].abs().max() < 1e-6


@pytest.mark.parametrize("inner", ["adam", "adagrad", "sgd_hd"])
def test_both_engines_have_the_same_meta_gradient(inner):
    algorithm = MAML(WAY, 0.05, False, "learned", inner)
    net, aim = net_of(algorithm), objective(QueryLoss, algorithm, 2)
    (loop, slow), (fast, quick) = (outer(engine, aim, net, episodes()) for engine in (Learn2Learn(), Vectorized(None)))
    # batch norm takes out a convolution's bias: its gradient is rounding alone, which these rules scale up
    (slow, quick) = ({n: g for n, g in each.items() if not n.endswith(".0.bias")} for each in (slow, quick))
    assert (loop.loss - fast.loss).abs().max() < 1e-8
    assert far(slow, quick) < 1e-6 * max(g.abs().max().item() for g in slow.values())
