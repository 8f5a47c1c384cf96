"""What attacks make large, by hand, and where its gradient is zero."""

import torch
from torch import Tensor

from metalab.attacks.base import gradient
from metalab.attacks.losses import best_other, chosen, divergence, dlr, margin, targeted, targets


def test_a_saturated_net_has_zero_cross_entropy_gradient_and_the_margin_has_not():
    scale = 300.0
    x, y = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(4, dtype=torch.int64)

    def model(images: Tensor) -> Tensor:
        first = images.flatten(1).sum(1)
        return scale * torch.stack([1 + first, -first, -2 * first], 1)

    assert gradient(model, x, chosen("cross_entropy", y))[1].dead.all()  # type: ignore[union-attr]
    assert not gradient(model, x, chosen("margin", y))[1].dead.any()  # type: ignore[union-attr]


def test_losses_by_hand():
    logits, y = torch.tensor([[3.0, 1.0, 0.5, 2.0], [0.0, 4.0, 1.0, -1.0]]), torch.tensor([0, 2])
    assert best_other(logits, y).tolist() == [2.0, 4.0]
    assert margin(logits, y).tolist() == [-1.0, 3.0]
    torch.testing.assert_close(dlr(logits, y), torch.tensor([-1 / 2, 3 / 4]))
    assert [t.tolist() for t in targets(logits, y, 9)] == [[3, 1], [1, 0], [2, 3]]
    toward = targeted("dlr", y, torch.tensor([3, 1]))
    torch.testing.assert_close(toward(logits), torch.tensor([-1 / (3 - 0.75), 3 / (4 + 0.5)]))
    torch.testing.assert_close(dlr(logits[:, :2], y.clamp(max=1)), margin(logits[:, :2], y.clamp(max=1)))
    three = targeted("dlr", y, torch.tensor([1, 1]))(logits[:, :3])
    torch.testing.assert_close(three, torch.tensor([-2.0, 3.0]))  # below four classes: the margin
    assert torch.equal(divergence(logits)(logits), torch.zeros(2))
    p, q = logits.softmax(1), torch.ones(2, 4) / 4
    torch.testing.assert_close(divergence(logits)(torch.zeros(2, 4)), (p * (p / q).log()).sum(1))
