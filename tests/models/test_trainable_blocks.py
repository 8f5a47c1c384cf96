"""backbone.trainable: what is frozen is in no optimizer and in no gradient, under both engines."""

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.gradient_based.metasgd import MetaSGD
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.models.build import build_net
from metalab.models.layers import Normalize
from metalab.models.pretrained.timm_backbone import Timm
from metalab.models.pretrained.torchvision_backbone import Torchvision
from metalab.models.pretrained.trainable_blocks import top_level_blocks


def learned(body: nn.Module) -> set[str]:
    return {name.removeprefix("net.") for name, p in body.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("name", "trainable", "begins"),
    [
        ("resnet18", 1, ("layer4.",)),
        ("resnet18", 2, ("layer3.", "layer4.")),
        ("mobilenet_v2", 2, ("features.17.", "features.18.")),
        ("shufflenet_v2_x0_5", 1, ("conv5.",)),
        ("vit_b_32", 1, ("encoder.layers.encoder_layer_11.", "encoder.ln.")),
    ],
)
def test_the_last_blocks_of_torchvisions_nets_learn(name, trainable, begins):
    body = Torchvision(name, None, None, trainable).build(3, 224)
    names = {each.removeprefix("net.") for each, _ in body.named_parameters()}
    assert learned(body) == {each for each in names if each.startswith(begins)}
    assert learned(body) > set()


@pytest.mark.parametrize(
    ("name", "size", "begins"),
    [
        ("test_resnet", 32, ("layer4.",)),
        ("test_vit", 160, ("blocks.5.", "norm.", "fc_norm.")),
        ("test_convnext", 32, ("stages.3.", "head.")),
    ],
)
def test_the_last_block_of_timms_nets_learns_with_the_norm_behind_it(name, size, begins):
    body = Timm(name, None, None, 1).build(3, size)
    assert learned(body) > set()
    assert all(each.startswith(begins) for each in learned(body))
    assert learned(Timm(name, None, None, "none").build(3, size)) == set()


def test_blocks_hold_each_parameter_once_and_too_many_are_told():
    for name in ("googlenet", "vgg11", "swin_t", "densenet121", "mnasnet0_5", "regnet_y_400mf"):
        net = models.get_model(name, weights=None)
        found = [each for block in top_level_blocks(net) for each in block]
        assert sorted(found) == sorted(each for each, _ in net.named_parameters()), name
    with pytest.raises(UserError, match=r"backbone.trainable=9: backbone.name=resnet18 has 5 blocks; expected 1 to 5"):
        Torchvision("resnet18", None, None, 9).build(3, 64)


def gradient(engine, algorithm, net: nn.Module) -> dict[str, Tensor]:
    x = torch.rand(2, 2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, torch.arange(2).repeat(2, 1), x[:, :0])
    objective = QueryLoss(algorithm, 1, cross_entropy, cross_entropy, predict_transductive)
    net.zero_grad()
    engine.grad(objective, net, Episode(batch, batch), torch.zeros(()))
    engine.evaluate(objective, net, Episode(batch, batch))
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("algorithm", [MAML(2, 0.1, False, "learned"), MetaSGD(2, 0.1, 0.2, False)])
def test_frozen_blocks_have_no_gradient_and_do_not_move_in_the_inner_loop(algorithm):
    torch.manual_seed(0)
    net = build_net(Timm("test_resnet", None, None, 1), algorithm, nn.Sequential(), Normalize([0.5] * 3, [1.0] * 3), 32)
    net = net.double()
    one, all_ = (gradient(engine, algorithm, net) for engine in (Learn2Learn(), Vectorized(None)))
    assert one.keys() == all_.keys()
    assert all(name.startswith(("body.net.layer4.", "head.", "rates.")) for name in one)
    assert max((one[name] - all_[name]).abs().max() for name in one) < 1e-10
    assert not [name for name, _ in net.named_parameters() if name.startswith("rates.") and "layer1" in name]
