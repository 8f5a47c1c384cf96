"""timm's nets as backbones: features and preparation as timm has them, one message for each thing that can go wrong."""

import os
import re
import subprocess
import sys

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from safetensors.torch import save_file
from timm.data import resolve_model_data_config
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.models.build import build_net
from metalab.models.feature_extractor import FrozenBatchNorm
from metalab.models.layers import BatchStatNorm, Normalize
from metalab.models.pretrained.timm_backbone import Timm, is_imagenet_alone
from metalab.training import train
from tests.conftest import TINY
from tests.quick import among, quick

NETS = ["resnet18", "efficientnet_lite0", "mobilenetv3_small_050", "vit_tiny_patch16_224"]
SMALL = ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"]  # timm's own for tests, below a million


def oracle(name: str) -> nn.Module:
    """timm's net with weights and statistics as a training leaves them."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=10)
    for module in net.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """saved(name) -> the file of timm's net's state dictionary, and the net."""
    folder, made = tmp_path_factory.mktemp("timm"), {}

    def file(name: str) -> tuple[str, nn.Module]:
        if name not in made:
            net = oracle(name)
            torch.save(net.state_dict(), folder / f"{name}.pt")
            made[name] = str(folder / f"{name}.pt"), net
        return made[name]

    return file


def test_a_net_of_one_size_takes_another_with_its_positions_resampled(saved, tmp_path):
    """As DINOv2's, whose weights are of 518 pixels."""
    file, net = saved("vit_tiny_patch16_224")
    backbone = Timm("vit_tiny_patch16_224", file, "none")
    body = backbone.build(3, 96)
    backbone.load(body)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=96).eval()
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("head.")}
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [6, 6], num_prefix_tokens=1)
    theirs.load_state_dict(state)
    x = torch.rand(2, 3, 96, 96)
    assert torch.allclose(body.eval()(x).flatten(1), theirs(x), atol=1e-5)
    with pytest.raises(UserError, match=r"made for images of 224x224 and cannot be for 36x36: .* Type data\.size=224"):
        Timm("nest_tiny", None, None).build(3, 36)
    torch.save(saved("test_vit")[1].state_dict(), tmp_path / "other.pt")
    other = Timm("vit_tiny_patch16_224", str(tmp_path / "other.pt"), "none")
    with pytest.raises(UserError, match=r"other\.pt does not fit backbone\.name=vit_tiny_patch16_224"):
        other.load(other.build(3, 96))


@pytest.mark.parametrize("name", quick([*NETS, *SMALL, "levit_128s", "tf_mobilenetv3_small_075"], among(*NETS)))
def test_the_features_are_timms_pooled_ones(name, saved):
    path, net = saved(name)
    what = Timm(name, path, "none")
    own = what.preparation()
    assert own is not None
    body = what.build(3, own.size)
    what.load(body)
    x = torch.rand(2, 3, own.size, own.size)
    with torch.no_grad():
        theirs = net.forward_head(net.forward_features(x), pre_logits=True)
        ours = body.train()(x)
    assert ours.shape == (*theirs.shape, 1, 1)
    assert (ours.flatten(1) - theirs).abs().max() < 1e-5 * max(1, float(theirs.abs().max()))
    before = {n: b.clone() for n, b in body.named_buffers()}
    assert all(torch.equal(before[n], b) for n, b in body.named_buffers())
    grey = torch.rand(2, 1, own.size, own.size)
    with torch.no_grad():
        assert torch.equal(body(grey), body(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("name", [*NETS, "tf_efficientnet_b1", "convnext_small.fb_in22k_ft_in1k_384"])
def test_the_preparation_is_timms(name):
    config = resolve_model_data_config(timm.create_model(name) if name in NETS else pretrained(name))
    own = Timm(name, "default", None).preparation()
    assert own is not None
    assert (own.size, own.interpolation) == (config["input_size"][-1], config["interpolation"])
    assert (tuple(own.mean), tuple(own.std)) == (config["mean"], config["std"])
    stretched = config["crop_mode"] == "squash"
    assert own.resize == (None if stretched else int(own.size / config["crop_pct"]))


def pretrained(name: str) -> nn.Module:
    net = nn.Identity()
    net.pretrained_cfg = timm.get_pretrained_cfg(name).to_dict()  # type: ignore[union-attr,assignment]
    return net


def test_random_weights_have_the_size_of_a_net_that_takes_no_other_and_the_datas_normalization():
    assert Timm("test_resnet", None, None).preparation() is None
    vit = Timm("test_vit", None, None)
    own = vit.preparation()
    assert own is not None
    assert own.size == 160
    assert vit.normalization() is None
    assert isinstance(Timm("test_vit", "default", None).normalization(), Normalize)


def test_safetensors_are_read_and_what_does_not_fit_is_told(saved, tmp_path):
    path, net = saved("test_efficientnet")
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "net.safetensors")
    bodies = []
    for file in (path, str(tmp_path / "net.safetensors")):
        what = Timm("test_efficientnet", file, "none")
        body = what.build(3, 32)
        what.load(body)
        bodies.append(body.state_dict())
    assert bodies[0].keys() == bodies[1].keys()
    assert all(torch.equal(bodies[0][k], bodies[1][k]) for k in bodies[0])
    other = Timm("test_resnet", path, "none")
    with pytest.raises(UserError, match=r"does not fit backbone.name=test_resnet: \d+ tensors differ, the first is"):
        other.load(other.build(3, 32))
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    bad = Timm("test_resnet", str(tmp_path / "bad.safetensors"), "none")
    with pytest.raises(UserError, match="is not a state dictionary"):
        bad.load(bad.build(3, 32))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "tf_mobilenetv3_small_075"])
def test_norms_with_an_activation_inside_are_frozen_with_it_or_take_the_batchs_statistics(name, saved):
    """Random weights: as timm's net in training, whose norms take their batch's statistics."""
    torch.manual_seed(1)
    frozen, fresh = Timm(name, saved(name)[0], "none").build(3, 64), Timm(name, None, None).build(3, 64)
    kinds = [{type(m) for m in body.modules()} & {FrozenBatchNorm, BatchStatNorm} for body in (frozen, fresh)]
    assert kinds == [{FrozenBatchNorm}, {BatchStatNorm}]
    assert not [m for body in (frozen, fresh) for m in body.modules() if isinstance(m, _BatchNorm)]
    theirs = timm.create_model(name, num_classes=0).train()
    with torch.no_grad():
        for a, b in zip(theirs.parameters(), fresh.parameters(), strict=True):
            assert a.shape == b.shape
            a.copy_(b)
    x = torch.rand(4, 3, 64, 64)
    for a, b in zip(theirs(x), fresh.train()(x).flatten(1), strict=True):
        assert (a - b).abs().max() < 1e-4 * max(1, float(a.abs().max()))


def gradients(net: nn.Module, algorithm, size: int, steps: int) -> list[list[Tensor]]:
    x = torch.rand(2, 4, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, torch.arange(2).repeat_interleave(2).repeat(2, 1), x[:, :0])
    objective = QueryLoss(algorithm, steps, cross_entropy, cross_entropy, predict_transductive)
    found = []
    for engine in (Learn2Learn(), Vectorized(None)):
        net.zero_grad()
        engine.grad(objective, net, Episode(batch, batch), torch.zeros(()))
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    return found


@pytest.mark.parametrize("kind", ["protonet", "maml"])
@pytest.mark.parametrize("name", quick(["test_vit", "test_efficientnet", "test_convnext"], among("test_vit")))
def test_both_engines_have_one_meta_gradient(name, kind, saved):
    algorithm = ProtoNet(2) if kind == "protonet" else MAML(2, 0.01, False, "learned")
    what = Timm(name, saved(name)[0], "none")
    size = 160 if name == "test_vit" else 32
    torch.manual_seed(0)
    net = build_net(what, algorithm, nn.Sequential(), Normalize([0.5] * 3, [0.5] * 3), size).double()
    one, all_ = gradients(net, algorithm, size, 1)
    assert len(one) == len(all_) > 20
    assert max((a - b).abs().max() for a, b in zip(one, all_, strict=True)) < 1e-9
    assert sum(float(a.abs().sum()) for a in one) > 0


class DataDependent(nn.Module):
    """A net whose path hangs on its images, which vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Flatten()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, part: str, x: Tensor) -> Tensor:
        return x.flatten(1) * (self.weight if x.sum() > 0 else -self.weight)


def test_a_net_that_cannot_run_for_several_tasks_at_once_is_said_so():
    x = torch.rand(2, 4, 1, 2, 2)
    batch = Batch(x, torch.arange(2).repeat_interleave(2).repeat(2, 1), x[:, :0])
    objective = QueryLoss(ProtoNet(2), 0, cross_entropy, cross_entropy, predict_transductive)
    with pytest.raises(UserError, match=r"this net cannot run for several tasks at once: .* engine=learn2learn"):
        Vectorized(None).grad(objective, DataDependent(), Episode(batch, batch), torch.zeros(()))


def test_checkpointing_computes_the_same_gradient_where_the_net_has_it(saved):
    path, _ = saved("test_vit")
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        what = Timm("test_vit", path, "none", "all", checkpointing)
        algorithm = MAML(2, 0.01, False, "learned")
        net = build_net(what, algorithm, nn.Sequential(), Normalize([0.5] * 3, [0.5] * 3), 160).double()
        what.load(net.body)
        x = torch.rand(1, 2, 3, 160, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        batch = Batch(x, torch.arange(2)[None], x[:, :0])
        objective = QueryLoss(algorithm, 1, cross_entropy, cross_entropy, predict_transductive)
        Learn2Learn().grad(objective, net, Episode(batch, batch), torch.zeros(()))
        found.append({n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert max((found[0][n] - found[1][n]).abs().max() for n in found[0]) < 1e-10
    with pytest.raises(UserError, match=r"backbone.checkpointing=true: backbone.name=.* has no gradient checkpointing"):
        Timm("selecsls42b", None, None, "all", True).build(3, 64)


@pytest.mark.parametrize(
    ("tag", "alone"),
    [
        ("a1_in1k", True),
        ("tv_in1k", True),
        ("miil_in1k_448", True),
        ("fb_dist_in1k", True),
        ("augreg_in21k_ft_in1k", False),
        ("ns_jft_in1k", False),
        ("fb_swsl_ig1b_ft_in1k", False),
        ("swag_lc_in1k", False),
        ("in22k", False),
        ("lvd142m", False),
        ("laion2b_ft_in1k", False),
        ("", False),
    ],
)
def test_a_tag_says_whether_imagenet_is_all_that_the_weights_saw(tag, alone):
    assert is_imagenet_alone(tag) is alone


def test_weights_of_unknown_data_refuse_nothing_and_say_so():
    known, unknown = Timm("resnet18.a1_in1k", "default", None), Timm("vit_small_patch14_dinov2", "default", None)
    assert len(known.seen()) == 1000
    assert (known.note(), unknown.seen()) == ("", set())
    assert unknown.note() == "what the backbone's weights were trained on is not known"
    given = Timm("vit_small_patch14_dinov2", "default", ["imagenet:n01440764", "omniglot:Greek/character01"])
    assert given.seen() == {"imagenet:n01440764", "omniglot:Greek/character01"}
    assert given.note() == Timm("resnet18", None, None).note() == ""


def composed(*words: str) -> DictConfig:
    own = ["algo=protonet", "data=tiny", "device=cpu", "task.query=3", "task.train_way=5", "backbone=timm"]
    own += ["data.size=32", "train.steps=1", "train.val_episodes=2", "train.meta_batch=1", "eval.episodes=2"]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("train", [f"hydra.searchpath=[file://{TINY}]", *own, *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["name=resnet19"], "backbone.name=resnet19: timm has no such net. Did you mean"),
        (["name=resnet18.nope"], "backbone.name=resnet18.nope: Invalid pretrained tag (nope) for resnet18. timm has"),
        (["name=test_resnet", "weights=no.pt", "classes=none"], "backbone.weights=no.pt: neither a file nor default"),
        (["name=test_resnet", "weights=no.pt"], "backbone.weights=no.pt: which classes did they see?"),
        (["name=test_resnet", "weights=no.pt", "classes=[dog]"], "backbone.classes=[dog]: expected ids with"),
        (["name=test_resnet", "classes=unknown"], "backbone.classes=unknown without backbone.weights"),
        (["name=vit_small_patch16_224_nope"], "timm has no such net. Did you mean vit_small_patch16_224?"),
        (["name=test_resnet", "trainable=9"], "backbone.trainable=9: backbone.name=test_resnet has 5 blocks"),
        (
            ["name=test_resnet", "trainable=some"],
            "backbone.trainable=some (text): expected one of all, none",
        ),
        (["name=test_resnet", "trainable=none"], "algo=protonet with this backbone has nothing to learn as backbone."),
        (["name=resnet10t", "checkpointing=true", "engine=vectorized"], "backbone.checkpointing=true: torch.func, by"),
    ],
)
def test_mistakes_are_told(words, message, tmp_path):
    own = [word if word.startswith("engine") else f"backbone.{word}" for word in words]
    with pytest.raises(UserError, match=re.escape(message)):
        train.run(composed(*own), tmp_path / "run")


@pytest.mark.slow
def test_without_network_or_package_there_is_one_message(tmp_path, monkeypatch):
    code = "from metalab.models import Timm\nwhat = Timm('test_vit', 'default', None)\nwhat.load(what.build(3, 160))"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(r"UserError: backbone.weights=default of test_vit could not be had: .* Fetch the file", last)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=re.escape("pip install 'metalab[timm]'")):
        Timm("resnet18", None, None)
