"""LoRA: nothing changes at first, only the additions learn, and they are what the formula says."""

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.algorithms.transfer_learning.finetune import Finetune
from metalab.core.errors import UserError
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net
from metalab.models.pretrained.lora import LoRA, LowRank, add_lora
from metalab.models.pretrained.timm_backbone import Timm
from metalab.models.pretrained.torchvision_backbone import Torchvision
from tests.algorithms.metric_cases import WAY, apart, episodes


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), home / "test_vit.pt")
    for name in ("squeezenet1_1", "vit_b_32"):
        torch.save(models.get_model(name).state_dict(), home / f"{name}.pt")
    return {path.stem: str(path) for path in home.iterdir()}


CASES = {
    "test_vit": (Timm, 160, 2, 8),  # two blocks of qkv, proj, fc1 and fc2
    "squeezenet1_1": (Torchvision, 64, 1, 3),
    "vit_b_32": (Torchvision, 224, 1, 4),  # torch's own attention, with in_proj_weight
}


@pytest.mark.parametrize("name", CASES)
def test_it_starts_as_the_net_itself_and_the_additions_alone_learn(name, weights):
    kind, size, trainable, count = CASES[name]
    plain, ours = (kind(name, weights[name], "none", trainable, lora=rank) for rank in (None, 3))
    nets = [each.build(3, size) for each in (plain, ours)]
    for each, net in zip((plain, ours), nets, strict=True):
        each.load(net)
    x = torch.rand(2, 3, size, size)
    expected, found = (net(x) for net in nets)
    assert torch.equal(found, expected)
    learned = {n: p for n, p in nets[1].named_parameters() if p.requires_grad}
    assert {n.rpartition(".")[2] for n in learned} == {"up", "down"}
    assert len(learned) == 2 * count
    with torch.no_grad():
        for p in learned.values():
            p.add_(0.1 * torch.randn_like(p))
    found = nets[1](x)
    assert not torch.allclose(found, expected)
    own = dict(nets[0].named_parameters())
    for n, up in learned.items():
        if n.endswith(".up"):
            weight = own[n.replace("parametrizations.", "").removesuffix(".0.up")]
            with torch.no_grad():
                weight.add_((up @ learned[n[:-2] + "down"]).view(weight.shape))
    assert torch.allclose(nets[0](x), found, atol=1e-5)


@pytest.mark.parametrize("algorithm", [Finetune(WAY, 0.1, None, "prototype"), MAML(WAY, 0.1, False, "prototype")])
def test_tasks_adapt_the_additions_alike_on_both_engines(algorithm, weights):
    backbone = Timm("test_vit", weights["test_vit"], "none", 2, lora=2)
    body = backbone.build(3, 160)
    backbone.load(body)
    net = Net(Normalize([0.5], [0.3]), body, nn.Sequential(), algorithm.parts(body, 64)).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    objective = QueryLoss(algorithm, 2, cross_entropy, cross_entropy, predict_transductive)
    far, gradient = apart(objective, net, episodes(shot=1, query=1, tasks=2, size=160))
    assert far < 1e-10
    body_gradient = {n: g for n, g in gradient.items() if n.startswith("body.")}
    assert len(body_gradient) == 16
    assert min(g.abs().max() for g in body_gradient.values()) > 0


def test_a_rank_is_no_larger_than_the_weights_own():
    layer = nn.Conv2d(4, 4, 3, groups=4)
    assert LowRank(layer.weight, 100).up.shape == (4, 4)
    net = nn.Sequential(layer, nn.BatchNorm2d(4))
    assert add_lora(net, LoRA(None, "all", None), True, "x") is None
    assert all(p.requires_grad for p in net.parameters())
    add_lora(net, LoRA(2, "all", None), True, "x")
    assert [n for n, p in net.named_parameters() if p.requires_grad] == [
        f"0.parametrizations.weight.0.{leaf}" for leaf in ("up", "down")
    ]


@pytest.mark.parametrize(
    ("rank", "trainable", "given", "message"),
    [
        (0, "all", True, "backbone.lora=0: expected a rank of 1 or more"),
        (2, "none", True, "no linear layer, convolution or attention of backbone.name=squeezenet1_1 learns"),
        (2, "all", False, "adds to weights that are kept, and there are none: type backbone.weights, too"),
    ],
)
def test_what_cannot_be_is_said(rank, trainable, given, message, weights):
    file = weights["squeezenet1_1"] if given else None
    with pytest.raises(UserError, match=message):
        Torchvision("squeezenet1_1", file, "none" if given else None, trainable, lora=rank).build(3, 64)


class Attention(nn.Module):
    """timm's layers, by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.q_proj = nn.Linear(6, 18), nn.Linear(6, 6), nn.Linear(6, 4)


def test_queries_keys_and_values_have_additions_of_their_own():
    torch.manual_seed(0)
    timms, torchs = Attention(), nn.MultiheadAttention(6, 2)
    net = nn.ModuleDict({"timm": timms, "torch": torchs, "mlp": nn.Linear(6, 6)})
    own = {name: p.clone() for name, p in net.named_parameters()}
    add_lora(net, LoRA(2, "qkv", 1.0), True, "net")
    learned = {n: p for n, p in net.named_parameters() if p.requires_grad}
    assert {n.partition(".parametrizations.")[0] for n in learned} == {"timm.qkv", "timm.q_proj", "torch"}
    with torch.no_grad():
        for p in learned.values():
            p.normal_()
    joint = {"timm.qkv.weight": timms.qkv.weight, "torch.in_proj_weight": torchs.in_proj_weight}
    for name, now in joint.items():
        where = name.replace(".weight", ".parametrizations.weight.0.").replace(
            ".in_proj_weight", ".parametrizations.in_proj_weight.0."
        )
        up, down = learned[f"{where}up"], learned[f"{where}down"]
        assert (up.shape, down.shape) == ((18, 2), (6, 6))
        apart = [up[6 * k : 6 * k + 6] @ down[2 * k : 2 * k + 2] for k in range(3)]
        assert torch.allclose(now, own[name] + 0.5 * torch.cat(apart), atol=1e-6)
    where = "timm.q_proj.parametrizations.weight.0."
    expected = own["timm.q_proj.weight"] + 0.5 * learned[f"{where}up"] @ learned[f"{where}down"]
    assert torch.allclose(timms.q_proj.weight, expected, atol=1e-6)


def test_keys_and_values_in_one_weight_are_two_and_odd_sizes_are_refused():
    net = nn.ModuleDict({"q": nn.Linear(6, 6), "kv": nn.Linear(6, 12)})
    add_lora(net, LoRA(2, "qkv", None), True, "net")
    shapes = {n.rpartition(".")[2]: tuple(p.shape) for n, p in net["kv"].named_parameters() if p.requires_grad}
    assert shapes == {"up": (12, 2), "down": (4, 6)}
    with pytest.raises(UserError, match=r"different sizes in one weight \[10, 6\]: type backbone\.lora_on=all"):
        add_lora(nn.ModuleDict({"qkv": nn.Linear(6, 10)}), LoRA(2, "qkv", None), True, "net")


def test_a_net_without_attention_has_no_queries():
    with pytest.raises(UserError, match=r"no attention's queries, keys and values .* type backbone\.lora_on=all"):
        add_lora(nn.Sequential(nn.Linear(2, 2)), LoRA(1, "qkv", None), True, "net")
    with pytest.raises(UserError, match=r"backbone\.lora_alpha=0: expected a number above 0"):
        LoRA(1, "qkv", 0.0)
