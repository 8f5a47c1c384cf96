"""AdaBN and TENT against torch's own batch norm, statistics and optimizer, in float64."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from metalab.config.schema import Eval
from metalab.core.errors import UserError
from metalab.core.interfaces import UnlabelledImages
from metalab.evaluation.transfer.target_adaptation import RATE, adabn, adapt_to_target, asked_for, batch_norms, tent
from metalab.models.feature_extractor import freeze_batch_norm
from metalab.models.layers import convert, running_statistics
from metalab.models.meta_net import Net


def evaluation(**more: Any) -> Eval:
    return Eval(600, more.pop("bn", None), "test", False, 8, **more)


@pytest.fixture
def plain() -> nn.Sequential:
    """Torch's own net, float64: two convolutions with batch norms, and a classifier of 4 classes."""
    torch.manual_seed(0)
    body = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
    )
    for norm in [module for module in body if isinstance(module, nn.BatchNorm2d)]:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return nn.Sequential(body, nn.Flatten(), nn.Linear(5, 4)).double().eval()


NORMS = {"ours": convert, "a pretrained body's": freeze_batch_norm, "torch's": nn.Identity()}


def net_of(plain: nn.Sequential, norms: str = "ours") -> Net:
    """The same net as a run has it: with our batch norms, with a pretrained body's, or with torch's."""
    body, _, head = deepcopy(plain)
    return Net(nn.Identity(), NORMS[norms](body), nn.Sequential(), {"head": head}).double().eval()


def batches(count: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.rand(8, 1, 8, 8, generator=draw, dtype=torch.float64) * (i + 1) for i in range(count)]


def statistics(net: nn.Module) -> list[torch.Tensor]:
    return [b.clone() for name, b in net.named_buffers() if name.endswith(("running_mean", "running_var"))]


def logits(net: Net, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), running_statistics():
        return net("logits", x)


@pytest.mark.parametrize("norms", NORMS)
def test_adabn_has_the_statistics_that_torch_takes_and_changes_nothing_else(plain, norms):
    net, seen = net_of(plain, norms), batches(3)
    weights = {name: p.clone() for name, p in net.named_parameters()}
    adabn(net, batch_norms(net), seen)
    update_bn([x.clone() for x in seen], plain)  # momentum None while it runs
    plain.eval()
    for own, theirs in zip(statistics(net), statistics(plain), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
    assert not net.training
    assert not any(m.training for m in net.modules())
    x = batches(1)[0]
    torch.testing.assert_close(logits(net, x), plain(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norms", NORMS)
def test_tent_is_adam_on_the_norms_weights_down_the_entropy(plain, norms):
    net, seen = net_of(plain, norms), batches(4)
    tent(net, batch_norms(net), iter(seen))
    found = [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    plain.train()  # batch statistics, as its authors have it
    optimizer = torch.optim.Adam([p for m in found for p in (m.weight, m.bias)], lr=RATE)
    for x in seen:
        optimizer.zero_grad()
        torch.distributions.Categorical(logits=plain(x)).entropy().mean().backward()
        optimizer.step()
    expected = dict(zip([n for n, _ in net.named_parameters()], plain.parameters(), strict=True))
    for name, p in net.named_parameters():
        torch.testing.assert_close(p, expected[name], rtol=1e-7, atol=1e-9)
        assert p.requires_grad
        assert p.grad is None


def test_the_entropy_on_the_target_falls_and_the_words_say_what_was_done(plain):
    net = net_of(plain).float()
    images = torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    target = UnlabelledImages(images, [""] * 300, "ink")
    x = images.float() / 255

    def entropy(net: Net) -> float:
        return torch.distributions.Categorical(logits=logits(net, x)).entropy().mean().item()

    plainly, surer = deepcopy(net), deepcopy(net)
    said = adapt_to_target(plainly, target, evaluation(bn="target"), False, 0)
    assert said == "batch norm by 300 training images of ink without labels; no test image was seen"
    said = adapt_to_target(surer, target, evaluation(tent=30), False, 0)
    assert said.startswith("after 30 steps of TENT on their batch norms' weights, batch norm by 300 training images")
    assert entropy(surer) < entropy(plainly) - 1e-3
    again = deepcopy(net)
    adapt_to_target(again, target, evaluation(tent=30), False, 0)
    assert torch.equal(logits(again, x), logits(surer, x))


def test_what_cannot_be_adapted_is_said(plain):
    assert asked_for(evaluation()) == ""
    assert asked_for(evaluation(bn="support")) == ""
    assert asked_for(evaluation(bn="target", tent=3)) == "eval.tent=3"
    with pytest.raises(UserError, match=r"eval\.tent=3 with eval\.bn=running: TENT normalizes by the target's"):
        asked_for(evaluation(bn="running", tent=3))
    with pytest.raises(UserError, match=r"eval\.tent=0: expected 1 or more"):
        evaluation(tent=0)
    target = UnlabelledImages(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), ["", ""], "ink")
    bare = Net(nn.Identity(), nn.Conv2d(1, 3, 3), nn.Sequential(), {})
    with pytest.raises(UserError, match=r"eval\.bn=target: the body of this net has no batch norm"):
        adapt_to_target(bare, target, evaluation(bn="target"), False, 0)
    with pytest.raises(UserError, match=r"eval\.tent=3 makes a plain classifier surer, and these are episodes"):
        adapt_to_target(net_of(plain), target, evaluation(tent=3), True, 0)
