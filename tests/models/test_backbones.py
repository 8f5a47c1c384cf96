from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from metalab.config.instantiate import build
from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.models.backbones import DropBlock
from metalab.models.layers import BatchStatNorm


def backbone(name: str, **changes: object) -> object:
    """Build a backbone from its YAML; changes to it may stand behind its name, as they are typed."""
    name, *typed = name.split()
    path = Path(conf_dir()) / "backbone" / f"{name}.yaml"
    node = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(node, dict)
    for base in node.pop("defaults", []):
        node = OmegaConf.to_container(OmegaConf.load(path.with_name(f"{base}.yaml"))) | node  # type: ignore[operator]
    return build(node | OmegaConf.to_container(OmegaConf.from_dotlist(typed)) | changes, "backbone")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "channels", "size", "shape", "parameters"),
    [
        ("conv4", 1, 28, (64, 1, 1), 111936),  # ProtoNet, Matching: 112k as Snell et al.'s code
        ("conv4", 3, 84, (64, 5, 5), 113088),
        ("conv4_strided", 1, 28, (64, 1, 1), 111936),  # MAML on Omniglot
        ("conv4_32", 3, 84, (32, 5, 5), 28896),  # MAML on miniImageNet
        ("conv4_relation", 3, 84, (64, 21, 21), 113088),
        ("conv4_relation unpadded=2", 1, 28, (64, 5, 5), 111936),  # Relation networks' code
        ("conv4_relation unpadded=2", 3, 84, (64, 19, 19), 113088),
        ("conv4_strided mean=false", 1, 28, (64, 2, 2), 111936),  # Reptile, iMAML: 256 features
        ("resnet12", 3, 84, (640, 1, 1), 12424320),
        ("resnet12 mean=false", 3, 84, (640, 5, 5), 12424320),  # MetaOptNet
        ("resnet18", 1, 32, (512, 1, 1), 11170240),
        ("resnet18 stem=small", 3, 32, (512, 1, 1), 11168832),  # 11,173,962 as CIFAR's ResNet-18, less its classifier
        ("fc", 1, 28, (64, 1, 1), 247296),
    ],
)
def test_a_backbone_has_its_papers_shape_and_size(name, channels, size, shape, parameters):
    body = backbone(name).build(channels, size)  # type: ignore[attr-defined]
    assert body(torch.rand(2, channels, size, size)).shape == (2, *shape)
    assert sum(p.numel() for p in body.parameters()) == parameters
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in body.modules())
    assert any(isinstance(m, BatchStatNorm) for m in body.modules())


def test_a_seed_gives_the_same_weights():
    bodies = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        bodies.append(torch.cat([p.flatten() for p in backbone("fc").build(1, 8).parameters()]))  # type: ignore[attr-defined]
    assert torch.equal(bodies[0], bodies[1])
    assert not torch.equal(bodies[0], bodies[2])


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("conv4", 15, "15x15 vanish after 4 poolings; give at least 16"),
        ("conv4_relation unpadded=2", 9, "9x9 vanish after 2 poolings and 2 unpadded convolutions; give at least 10"),
        ("conv4_strided unpadded=4", 30, "30x30 vanish after 0 poolings and 4 unpadded convolutions; give at least 31"),
        ("resnet12", 12, "backbone=resnet12 needs at least 16"),
        ("resnet18", 28, "28x28 is too small, give at least 32, or type backbone.stem=small"),
        ("resnet18 stem=small", 7, "divides the image by 8: 7x7 is too small, give at least 8$"),
    ],
)
def test_an_image_that_is_too_small_is_refused_with_the_size_that_is_not(name, size, message):
    made = backbone(name)
    with pytest.raises(UserError, match=message):
        made.build(1, size)  # type: ignore[attr-defined]


@pytest.mark.parametrize("changes", [{}, {"unpadded": 2}, {"pooled": 2, "unpadded": 4}, {"strided": True, "pooled": 0}])
def test_the_least_size_that_is_named_is_the_least_that_works(changes):
    made = backbone("conv4", filters=2, **changes)
    least = made._least()  # type: ignore[attr-defined]
    assert made.build(1, least)(torch.rand(2, 1, least, least)).shape[-2:] == (1, 1)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=f"give at least {least}"):
        made.build(1, least - 1)  # type: ignore[attr-defined]


def test_pooling_and_striding_at_once_is_refused():
    with pytest.raises(UserError, match=r"pools or strides, not both; type backbone\.pooled=0"):
        backbone("conv4", strided=True)


def test_dropblock_drops_squares_of_the_rate_in_training_alone():
    torch.manual_seed(0)
    layer, x = DropBlock(0.2, 3), torch.ones(64, 8, 12, 12)
    dropped = layer(x) == 0
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert layer(x).mean().item() == pytest.approx(1, abs=1e-4)  # what is left is scaled up
    inside = dropped[:, :, 1:-1, 1:-1]
    alone = inside & ~(dropped[:, :, :-2, 1:-1] | dropped[:, :, 2:, 1:-1])
    assert not alone.any()  # never a single row: squares of 3
    assert torch.equal(layer.eval()(x), x)
