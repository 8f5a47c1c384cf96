"""Second derivatives of layer norm under vmap, which torch's own gets wrong, by finite differences."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from metalab.engines.layer_norm import SeparateGain

SIZE = 6


def after_a_step(weights: Tensor, x: Tensor) -> Tensor:
    """The loss after an inner step: its gradient takes second derivatives."""

    def loss(weights: Tensor) -> Tensor:
        gain, shift, matrix = weights[:SIZE], weights[SIZE : 2 * SIZE], weights[2 * SIZE :].reshape(SIZE, SIZE)
        return F.layer_norm(torch.tanh(x @ matrix), (SIZE,), gain, shift).pow(3).mean()

    return loss(weights - 0.1 * grad(loss)(weights))


def test_the_gradient_through_an_inner_step_is_that_of_finite_differences():
    torch.manual_seed(0)
    weights = torch.randn(2 * SIZE + SIZE * SIZE, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 4, SIZE, dtype=torch.float64)

    def total(weights: Tensor) -> Tensor:
        with SeparateGain():
            return vmap(lambda one: after_a_step(weights, one))(x).sum()

    assert torch.autograd.gradcheck(total, (weights,))
    with torch.no_grad():
        assert torch.allclose(total(weights), sum((after_a_step(weights, one) for one in x), torch.zeros(())))
