"""Real digits: a classifier of MNIST aligned with unlabelled USPS is right about more of USPS than MNIST alone."""

import os
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from metalab.engines.learn2learn import Learn2Learn
from metalab.models.build import build_net, normalization
from metalab.models.layers import estimate_running, running_statistics
from tests.configs import training_setup
from tests.regularizers import shifted

STEPS = 300
WORDS = ("algo=baseline", "algo.mini_batch=64", "task.train_way=null", "backbone.filters=16", "backbone.pooled=2")


def trained(small, *words: str) -> nn.Module:
    """Return a classifier of 3000 images of MNIST after 300 steps of Adam."""
    cfg = small(*WORDS, "backbone.mean=false", *words)
    cfg.data = OmegaConf.create({"_target_": "tests.regularizers.shifted.Shifted", "domain": "usps"})
    r = training_setup(cfg)
    torch.manual_seed(0)
    normalize = normalization(r.data["train"].images)
    net = build_net(r.backbone, r.train_algorithm, nn.Sequential(), normalize, 14, r.terms.parts).train()
    r.terms.attach(net)
    optimizer, source, objective = torch.optim.Adam(net.parameters(), 3e-3), r.training("train", 1), r.objective()
    for step in range(STEPS):
        optimizer.zero_grad()
        Learn2Learn().grad(objective, net, source(step), torch.full((), step / STEPS))
        optimizer.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor, statistics_of: Tensor) -> float:
    """Return the share that is right, with the batch-norm statistics of these images."""
    estimate_running(net, [partial(net, "features", x.float() / 255) for x in statistics_of.split(500)])
    with running_statistics():
        return (net("logits", images.float() / 255).argmax(1) == labels).double().mean().item()


@pytest.mark.slow
def test_alignment_is_right_about_more_of_the_target(small):
    """Against the source alone with the same statistics: the target's own (AdaBN), and the source's."""
    if "METALAB_SHARED_DATA" not in os.environ or not (shifted.shared() / "usps").is_dir():
        pytest.skip("METALAB_SHARED_DATA with mnist/ and usps/ is not set")
    seen, images, labels = shifted.target("usps")
    source = shifted.mnist("train", 1000)[0]
    parts = {
        "alone": (),
        "mmd": ("reg=mmd",),
        "coral": ("reg=coral", "reg.coral.weight=100"),
        "dann": ("reg=dann", "reg.dann.weight=0.2"),
    }
    nets = {name: trained(small, *words) for name, words in parts.items()}
    for statistics in (seen, source):
        found = {name: accuracy(net, images, labels, statistics) for name, net in nets.items()}
        print(found)
        assert all(found[name] > found["alone"] + 0.04 for name in parts if name != "alone"), found
