"""MixStyle: by the paper's formula, in training alone, on both engines."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from metalab.core.errors import UserError
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.models.backbones import FC, Conv4, ResNet12, ResNet18
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net
from metalab.regularizers.mixstyle import MixStyle, first_block, mix_styles, with_styles_of
from metalab.training import train
from tests.configs import training_setup
from tests.engines.test_parity import SMALL, episodes, gradient, net_of


def test_maps_get_the_mixed_means_and_deviations_and_keep_the_rest():
    """sec. 2.2: gamma_mix (x - mu) / sigma + beta_mix, channel by channel, written out in loops."""
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4, 5, dtype=torch.float64) * 3 + 1
    order, share = torch.tensor([2, 0, 1]), torch.tensor([0.9, 0.25, 1.0], dtype=torch.float64)
    mixed = with_styles_of(x, order, share)
    for i in range(3):
        for c in range(2):
            own, other = x[i, c], x[order[i], c]
            gamma = share[i] * own.std() + (1 - share[i]) * other.std()
            beta = share[i] * own.mean() + (1 - share[i]) * other.mean()
            torch.testing.assert_close(mixed[i, c], gamma * (own - own.mean()) / own.std() + beta, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mixed[2], x[2], rtol=1e-6, atol=1e-6)  # all its own


def test_statistics_are_constants_of_the_gradient():
    x = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    order, share = torch.tensor([1, 0]), torch.tensor([0.5, 0.5]).double()
    [gradient_] = torch.autograd.grad(with_styles_of(x, order, share).sum(), x)
    deviation = x.detach().std((2, 3))
    expected = (deviation + deviation[order]) / 2 / deviation
    torch.testing.assert_close(gradient_, expected[:, :, None, None].expand_as(x), rtol=1e-5, atol=1e-6)


def test_a_share_p_of_the_passes_is_mixed():
    torch.manual_seed(0)
    x = torch.randn(8, 2, 3, 3)
    same = sum(torch.equal(mix_styles(x, 0.3, 0.25), x) for _ in range(400)) / 400
    assert same == pytest.approx(0.75, abs=0.07)
    assert torch.equal(mix_styles(x, 0.3, 0.0), x)


@pytest.mark.parametrize("at", ["images", "block1"])
def test_it_stands_where_it_says_and_in_training_alone(at):
    torch.manual_seed(0)
    body = Conv4(4, 4, False, False).build(1, 16)
    net, seen = Net(Normalize([0.5], [0.5]), body, nn.Sequential(), {}), {}
    MixStyle(1.0, 1.0, at).hooks().attach(net)
    net.normalize.register_forward_hook(lambda module, inputs, out: seen.update(images=out))
    net.body.get_submodule("0").register_forward_hook(lambda module, inputs, out: seen.update(block1=out))
    x = torch.rand(5, 1, 16, 16)
    plain, clean = net.eval()("features", x), dict(seen)
    assert torch.equal(plain, net("features", x))
    assert not torch.equal(plain, net.train()("features", x))
    assert torch.equal(seen["images"], clean["images"]) == (at == "block1")
    assert not torch.equal(seen["block1"], clean["block1"])
    if at == "block1":  # the means of channels stay among those of the pass
        a, b = (each["block1"].mean((2, 3)) for each in (clean, seen))
        assert (b.amin(0) >= a.amin(0) - 1e-5).all()
        assert (b.amax(0) <= a.amax(0) + 1e-5).all()


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        (Conv4(4, 4, False, False), "0"),
        (ResNet12((4, 4, 4, 4), 0.1, 0.0, 0.0, 1), "0"),
        (ResNet18("small"), "4"),
    ],
    ids=["conv4", "resnet12", "resnet18"],
)
def test_the_first_block_of_each_backbone(backbone, name):
    body = backbone.build(1, 32)
    assert first_block(body) is body.get_submodule(name)


def test_a_backbone_without_blocks_is_refused(small, tmp_path):
    with pytest.raises(UserError, match=r"reg\.mixstyle\.at=block1 works behind the first block of conv4, resnet12"):
        first_block(FC((8,)).build(1, 16))
    cfg = small("algo=protonet", "reg=mixstyle", "train.steps=1")
    cfg.backbone = OmegaConf.create({"_target_": "metalab.models.FC", "widths": [8]})
    with pytest.raises(UserError, match=r"type reg\.mixstyle\.at=images"):
        train.run(cfg, tmp_path)


@pytest.mark.parametrize("engine", [Learn2Learn(), Vectorized(None)], ids=["loop", "vmap"])
@pytest.mark.parametrize("at", ["images", "block1"])
@pytest.mark.parametrize("algo", ["protonet", "maml"])
def test_it_trains_on_both_engines(algo, at, engine, small):
    words = ("task.train_way=3", "task.way=3", "task.query=2", f"algo={algo}", "algo.steps=1")
    words = words if algo == "maml" else words[:-1]
    r = training_setup(small(*words, "reg=mixstyle", f"reg.mixstyle.at={at}", "reg.mixstyle.p=1"))
    batch, net = episodes(r, 2), net_of(r, SMALL["conv4"], 16)
    (one, first), (two, second) = (gradient(engine, r, net, batch, 0.5) for _ in range(2))
    assert not torch.equal(one.loss, two.loss)  # drawn anew
    assert all(g.isfinite().all() for g in first.values())
    assert first.keys() == second.keys()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixStyle(0.0, 0.5, "images"), r"reg\.mixstyle\.alpha=0: expected a number above 0"),
        (lambda: MixStyle(0.1, 1.5, "images"), r"reg\.mixstyle\.p=1\.5: expected a share, 0 to 1"),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(UserError, match=message):
        make()
