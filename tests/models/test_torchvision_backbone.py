"""torchvision's nets as backbones: weights as they are, statistics that stay, classes that are remembered."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode
from metalab.data.formats.image_decode import decode
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.evaluation import evaluate
from metalab.models.build import build_net
from metalab.models.feature_extractor import FeatureExtractor, FrozenBatchNorm
from metalab.models.layers import BatchStatNorm, Normalize
from metalab.models.pretrained.pretrained_classes import pretrained_class_ids
from metalab.models.pretrained.torchvision_backbone import Torchvision
from metalab.tracking import checkpoint
from metalab.training import train
from tests.configs import backbone as made_backbone
from tests.pretrained import mobilenet_weights
from tests.quick import among, quick

NAME = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> tuple[str, nn.Module]:
    """A file with weights and statistics as a training leaves them, and the net they are of."""
    torch.manual_seed(0)
    net = models.get_model(NAME, weights=None)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(net.state_dict(), path)
    return str(path), net.eval()


def node(weights: str | None = None, classes: str | None = None, name: str = NAME) -> dict:
    return {
        "_target_": "metalab.models.Torchvision",
        "name": name,
        "weights": weights,
        "classes": classes,
    }


def test_the_features_are_what_the_classifiers_last_layer_gets(weights):
    path, net = weights
    what = Torchvision(NAME, path, "imagenet")
    body = what.build(3, 64)
    what.load(body)
    body.train()
    seen_: list[Tensor] = []
    net.classifier[3].register_forward_hook(lambda m, inputs, out: seen_.append(inputs[0]))
    x = torch.rand(2, 3, 64, 64)
    for module in body.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        net(x)
        features = body(x)
    assert features.shape == (2, 1024, 1, 1)
    assert (features.flatten(1) - seen_[0]).abs().max() < 1e-4 * seen_[0].abs().max()
    grey = torch.rand(2, 1, 64, 64)
    assert torch.equal(body.eval()(grey), body(grey.expand(-1, 3, -1, -1)))


def test_pretrained_norms_keep_their_statistics_and_random_ones_take_the_batchs(weights):
    kept, fresh = (Torchvision(NAME, w, c).build(3, 64) for w, c in ((weights[0], "none"), (None, None)))
    kinds = [
        {type(m) for m in body.modules()} & {FrozenBatchNorm, BatchStatNorm, nn.BatchNorm2d} for body in (kept, fresh)
    ]
    assert kinds == [{FrozenBatchNorm}, {BatchStatNorm}]
    before = {n: b.clone() for n, b in kept.named_buffers()}
    kept.train()(torch.rand(4, 3, 64, 64))
    assert all(torch.equal(before[n], b) for n, b in kept.named_buffers())


def test_a_pretrained_net_gets_the_normalization_of_its_weights(weights):
    algorithm, ours = MAML(3, 0.1, False, "learned"), Normalize([0.1], [0.2])
    net = build_net(made_backbone(node(weights[0], "none")), algorithm, nn.Sequential(), ours, 64)
    fresh = build_net(made_backbone(node()), algorithm, nn.Sequential(), ours, 64)
    assert net.get_buffer("normalize.mean").flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert net.get_buffer("normalize.std").flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert fresh.get_buffer("normalize.mean").flatten().tolist() == pytest.approx([0.1])
    assert net("features", torch.rand(2, 1, 64, 64)).shape == (2, 1024, 1, 1)


def test_a_pretrained_net_has_the_same_meta_gradient_on_both_engines(weights):
    torch.manual_seed(0)
    algorithm = MAML(2, 0.01, False, "learned")
    what = Torchvision("resnet18", None, None)
    net = build_net(
        made_backbone(node(weights[0], "none", "resnet18")), algorithm, nn.Sequential(), Normalize([0.5], [0.5]), 32
    ).double()
    assert what.name == "resnet18"
    x = torch.rand(2, 2, 1, 32, 32, dtype=torch.float64)
    batch = Batch(x, torch.arange(2).repeat(2, 1), x[:, :0])
    gradients = []
    for engine in (Learn2Learn(), Vectorized(None)):
        net.zero_grad()
        engine.grad(
            QueryLoss(algorithm, 1, cross_entropy, cross_entropy, predict_transductive),
            net,
            Episode(batch, batch),
            torch.zeros(()),
        )
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 50
    assert max((a - b).abs().max() for a, b in zip(*gradients, strict=True)) < 1e-10


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("squeezenet1_1", 64)])
def test_every_kind_of_classifier_is_taken_off(name, size):
    body = Torchvision(name, None, None).build(3, size)
    assert isinstance(body, FeatureExtractor)
    features = body.train()(torch.rand(2, 3, size, size))
    assert features.shape[2:] == (1, 1)
    assert features.shape[1] in (512, 1024)


def test_imagenet_has_a_thousand_classes_and_a_file_has_its_own(tmp_path):
    assert len(pretrained_class_ids("imagenet")) == 1000
    assert "imagenet:n01440764" in pretrained_class_ids("imagenet")
    (tmp_path / "ids.txt").write_text("# mine\ntiny:000000001\n\n")
    assert pretrained_class_ids(str(tmp_path / "ids.txt")) == {"tiny:000000001"}
    assert Torchvision(NAME, "DEFAULT", None).seen() == pretrained_class_ids("imagenet")
    assert Torchvision(NAME, None, None).seen() == set()


def words(small: Callable[..., DictConfig], **backbone: str | None) -> DictConfig:
    """A training of one step of feature extraction on tiny images with this backbone."""
    own = ("algo=feature_extraction", "task.train_way=null", "algo.mini_batch=8", "algo.iterations=2", "data.size=32")
    cfg = small(*own, "train.steps=1", "train.val_episodes=2", "optim.lr=1e-12")
    cfg.backbone = node(**backbone)  # type: ignore[arg-type]
    return cfg


@pytest.mark.slow
def test_what_the_weights_saw_is_in_the_checkpoint_and_is_not_tested_on(small, weights, tmp_path, tiny):
    ids = tmp_path / "ids.txt"
    ids.write_text(tiny["test"].ids[0] + "\n")
    cfg = words(small, weights=weights[0], classes=str(ids))
    train.run(cfg, tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run" / "best.pt")
    assert tiny["test"].ids[0] in saved["classes"]
    mine = weights[1].state_dict()["features.0.0.weight"]
    assert (saved["net"]["body.net.features.0.0.weight"] - mine).abs().max() < 1e-6
    cfg.data.absent, cfg.backbone.weights = "", "gone.pth"  # a checkpoint needs no other file
    with pytest.raises(UserError, match=r"was trained on 1 of the 12 classes"):
        evaluate.run([(tmp_path / "run", cfg)], tmp_path / "eval")
    cfg.eval.allow_overlap, cfg.eval.episodes = True, 2
    evaluate.run([(tmp_path / "run", cfg)], tmp_path / "eval")
    ids.write_text(tiny["val"].ids[0] + "\n")
    with pytest.raises(UserError, match=r"backbone.weights=.* was trained on 1 of the 12 validation classes"):
        train.run(words(small, weights=weights[0], classes=str(ids)), tmp_path / "val")


BASELINES = ["baseline", "baselinepp", "finetune", "simpleshot", "protonet"]


@pytest.mark.slow
@pytest.mark.parametrize("algo", quick(BASELINES, among("protonet")))
def test_the_weights_work_for_every_transfer_baseline(algo, small, weights, tmp_path):
    own = () if algo == "protonet" else ("task.train_way=null", "algo.mini_batch=8")
    own += ("algo.epochs=1",) if algo.startswith("baseline") else ("algo.test_steps=2",) if algo == "finetune" else ()
    sizes = ("data.size=32", "train.steps=1", "train.val_episodes=2", "eval.episodes=2", "data.absent=''")
    cfg = small(f"algo={algo}", *own, *sizes)
    cfg.backbone = node(weights[0], "none")
    train.run(cfg, tmp_path / "run")
    evaluate.run([(tmp_path / "run", cfg)], tmp_path / "eval")
    assert (tmp_path / "eval" / "eval.json").is_file()


@pytest.mark.slow
def test_a_net_that_cannot_be_differentiated_twice_is_said_so(small, tmp_path):
    cfg = small("algo=maml", "data.size=32", "train.steps=1", "train.meta_batch=1", "train.val_episodes=2")
    cfg.backbone = node()
    with pytest.raises(
        UserError, match=r"derivative for .* is not implemented: the backbone cannot .* algo\.first_order"
    ):
        train.run(cfg, tmp_path / "run")
    cfg.algo.first_order = True
    train.run(cfg, tmp_path / "first")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"name": "resnet19"}, "backbone.name=resnet19: torchvision has no such classification net. Did you mean"),
        ({"weights": "no.pth", "classes": "none"}, "no.pth: neither a file nor weights that torchvision has"),
        ({"weights": "no.pth"}, "backbone.weights=no.pth: which classes did they see?"),
        ({"classes": "imagenet"}, "backbone.classes=imagenet without backbone.weights: random weights saw no class"),
        ({"weights": "DEFAULT", "classes": "no.txt"}, "backbone.classes=no.txt: expected imagenet, none,"),
        ({"name": "vit_b_32"}, "backbone.name=vit_b_32 cannot take images of 32x32"),
    ],
)
def test_mistakes_are_told(backbone, message, small, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        train.run(words(small, **backbone), tmp_path)


def test_weights_of_another_net_are_refused(weights, small, tmp_path):
    with pytest.raises(UserError, match=r"does not fit backbone.name=resnet18: \d+ tensors differ, the first is"):
        train.run(words(small, name="resnet18", weights=weights[0], classes="none"), tmp_path)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match="is not a state dictionary"):
        train.run(words(small, weights=str(tmp_path / "text.pth"), classes="none"), tmp_path)


@pytest.mark.net
def test_real_weights_on_a_prepared_file_are_torchvisions_own_pipeline(tmp_path):
    """From the file on the disk to the features: data=folder's pixels and our net beside torchvision's transforms."""
    path = mobilenet_weights()
    what = Torchvision("mobilenet_v2", str(path), "imagenet")
    own = what.preparation()
    assert own is not None
    image = tmp_path / "image.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((500, 333)).save(image, quality=95)
    entry = models.MobileNet_V2_Weights.IMAGENET1K_V1
    theirs = models.mobilenet_v2()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    theirs.classifier = nn.Identity()  # type: ignore[assignment]
    net = build_net(what, MAML(2, 0.1, False, "learned"), nn.Sequential(), Normalize([0.0] * 3, [1.0] * 3), own.size)
    what.load(net.body)
    pixels = torch.from_numpy(decode(image, own.size, 3, 16, own.resize, own.interpolation).pixels)[None]
    with Image.open(image) as opened, torch.no_grad():
        expected = theirs.eval()(entry.transforms()(opened)[None])
        found = net.eval()("features", pixels.float() / 255).flatten(1)
    assert (found - expected).abs().max() < 1e-4 * float(expected.abs().max())
    assert float(expected.abs().max()) > 0.1


@pytest.mark.slow
def test_weights_of_unknown_data_are_a_note_in_the_log_and_on_the_result(small, weights, tmp_path):
    cfg = words(small, weights=weights[0], classes="unknown")
    cfg.data.absent = ""
    train.run(cfg, tmp_path / "run")
    note = "what the backbone's weights were trained on is not known"
    assert checkpoint.load(tmp_path / "run" / "best.pt")["data"]["weights"] == note
    evaluate.run([(tmp_path / "run", cfg)], tmp_path / "eval")
    assert note in (tmp_path / "eval" / "eval.json").read_text()
    next_ = words(small, weights=None)
    next_.backbone = dict(cfg.backbone) | {"weights": weights[0], "classes": "none"}
    next_.train.init = str(tmp_path / "run")
    train.run(next_, tmp_path / "second")  # weights that came by way of another run are as unknown
    assert checkpoint.load(tmp_path / "second" / "best.pt")["data"]["weights"] == note
