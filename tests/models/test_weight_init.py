"""train.weights: what each rule draws, and that a run starts from it."""

import math
import re

import pytest
import torch
from torch import nn

from metalab.core.errors import UserError
from metalab.models.weight_init import initialize_module, initialize_weights
from metalab.training.train import _init_or_resume
from tests.configs import training_setup


def drawn(rule) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    conv, norm, linear = nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.Linear(64, 40)
    initialize_module(nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), linear), rule)
    assert conv.bias is not None
    assert not conv.bias.any()
    assert not linear.bias.any()
    assert torch.equal(norm.weight, torch.ones(64))
    return conv.weight.detach().flatten(1), linear.weight.detach()


def test_he_keeps_the_variance_through_relu_and_xavier_that_of_both_directions():
    conv, linear = drawn("he")
    assert abs(conv.std().item() / math.sqrt(2 / (32 * 9)) - 1) < 0.03
    assert abs(linear.std().item() / math.sqrt(2 / 64) - 1) < 0.06
    conv, linear = drawn("xavier")
    assert abs(conv.abs().max().item() / math.sqrt(6 / ((32 + 64) * 9)) - 1) < 0.01
    assert abs(linear.abs().max().item() / math.sqrt(6 / (64 + 40)) - 1) < 0.01


def test_orthogonal_rows_are_orthonormal():
    for weight in drawn("orthogonal"):
        assert (weight @ weight.T - torch.eye(len(weight))).abs().max() < 1e-5


def test_torch_is_what_its_layers_start_from():
    """Uniform within 1 / sqrt(inputs), the biases too."""
    torch.manual_seed(0)
    layers = nn.Conv2d(32, 64, 3), nn.Linear(64, 40)
    expected = [p.clone() for layer in layers for p in layer.parameters()]
    net = nn.Sequential(*layers)
    initialize_module(net, "xavier")
    torch.manual_seed(0)
    initialize_module(net, "torch")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected, strict=True))
    assert abs(layers[0].weight.abs().max().item() * math.sqrt(32 * 9) - 1) < 0.01
    assert layers[0].bias is not None
    assert layers[0].bias.any()


def test_a_run_starts_from_it_body_and_head(small):
    def begun(*words):
        cfg = small("algo=maml", *words)
        return _init_or_resume(cfg, training_setup(cfg), None)[0]

    net = begun("train.weights=orthogonal")
    for weight in (net.get_parameter("head.weight"), net.get_parameter("body.1.0.weight").flatten(1)):
        gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        assert (gram - torch.eye(len(gram))).abs().max() < 1e-5
    assert not torch.equal(begun().get_parameter("head.weight"), net.get_parameter("head.weight"))


def test_weights_from_two_places_are_refused(small):
    with pytest.raises(
        UserError, match=re.escape("train.weights=he with train.init=latest: the weights come from one")
    ):
        training_setup(small("train.weights=he", "train.init=latest"))


def test_weights_that_the_backbone_loads_are_not_drawn_anew():
    with pytest.raises(UserError, match="would draw anew what backbone.weights=DEFAULT loads".replace(".", "[.]")):
        initialize_weights(nn.Identity(), "he", "DEFAULT")
