"""open_clip's nets: a tiny CLIP that nobody trained; images, texts and class names go through the right encoder."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip import pretrained
from PIL import Image
from torch import nn

from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.core.errors import UserError
from metalab.models.layers import Normalize
from metalab.models.meta_net import Net
from metalab.models.pretrained.open_clip_backbone import OpenCLIP
from tests.algorithms.metric_cases import WAY, apart, episodes

VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
COLOURS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (30, 30, 240)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """Make open_clip know a net "tiny", and return a file of weights for it."""
    home = tmp_path_factory.mktemp("clip")
    (home / "tiny.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}))
    open_clip.add_model_config(home / "tiny.json")
    torch.manual_seed(3)  # not the seed of a command, whose random weights would be these
    torch.save(open_clip.create_model("tiny", pretrained_text=False).state_dict(), home / "tiny.pt")
    return str(home / "tiny.pt")


def test_images_and_texts_have_open_clips_own_features(weights, caplog):
    backbone = OpenCLIP("tiny", weights, "unknown")
    body, x = backbone.build(3, 32), torch.rand(2, 3, 32, 32)
    backbone.load(body)
    theirs: Any = open_clip.create_model("tiny", pretrained=weights).eval()
    assert torch.allclose(body.eval()(x).flatten(1), theirs.encode_image(x), atol=1e-5)
    texts = ["a photo of a dog.", "a photo of a cat."]
    assert torch.equal(backbone.embed_texts(texts), theirs.encode_text(open_clip.get_tokenizer("tiny")(texts)))
    made, own = backbone.preparation(), open_clip.OPENAI_DATASET_MEAN
    assert (made.size, made.resize, made.interpolation, made.mean) == (32, 32, "bicubic", list(own))
    assert backbone.note()
    assert OpenCLIP("tiny", weights, "imagenet").note() == ""
    assert "imagenet:n01440764" in OpenCLIP("tiny", weights, "imagenet").seen()


@pytest.mark.parametrize(
    ("trainable", "begins"), [(1, ("transformer.resblocks.1.", "ln_post.", "proj")), (2, ("",)), ("none", ("nothing",))]
)
def test_the_last_blocks_learn(trainable, begins, weights):
    body = OpenCLIP("tiny", weights, "none", trainable).build(3, 32)
    names = {name.removeprefix("net."): p.requires_grad for name, p in body.named_parameters()}
    assert {name for name, learns in names.items() if learns} == {name for name in names if name.startswith(begins)}


def test_a_tag_brings_its_own_activation(weights, monkeypatch):
    """OpenAI's weights were trained with QuickGELU, which a plain name does not have: open_clip only warns."""
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", {"own": {"quick_gelu": True}, "other": {}})
    for tag, kind in (("own", "QuickGELU"), ("other", "GELU")):
        body = OpenCLIP("tiny", tag, "none").build(3, 32)
        kinds = {type(m).__name__ for m in body.modules()}
        assert kind in kinds
        assert len(kinds & {"QuickGELU", "GELU"}) == 1


def test_inner_steps_have_second_derivatives_through_its_attention(weights):
    backbone, algorithm = OpenCLIP("tiny", weights, "none", 1, 2), MAML(WAY, 0.1, False, "prototype")
    body = backbone.build(3, 32)
    backbone.load(body)
    net = Net(Normalize([0.5], [0.3]), body, nn.Sequential(), algorithm.parts(body, 16)).double()
    objective = QueryLoss(algorithm, 2, cross_entropy, cross_entropy, predict_transductive)
    far, gradient = apart(objective, net, episodes(shot=1, query=1, tasks=2, size=32))
    assert far < 1e-10
    assert max(g.abs().max() for n, g in gradient.items() if n.startswith("body.")) > 0


def test_cocas_image_encoder_gives_one_feature_an_image(weights, tmp_path):
    text = TEXT | {"embed_cls": True, "output_tokens": True}
    vision = VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    decoder = {"context_length": 76, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1, "attn_pooler_heads": 2}
    made = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "multimodal_cfg": decoder, "custom_text": True}
    (tmp_path / "coca_tiny.json").write_text(json.dumps(made))
    open_clip.add_model_config(tmp_path / "coca_tiny.json")
    assert OpenCLIP("coca_tiny", None, None).build(3, 32)(torch.rand(2, 3, 32, 32)).shape == (2, 16, 1, 1)


def test_lora_stands_on_its_attention_too(weights):
    backbone = OpenCLIP("tiny", weights, "none", 1, 2)
    body, x = backbone.build(3, 32), torch.rand(2, 3, 32, 32)
    backbone.load(body)
    plain = OpenCLIP("tiny", weights, "none")
    loaded = plain.build(3, 32)
    plain.load(loaded)
    assert torch.allclose(body.eval()(x), loaded.eval()(x), atol=1e-6)
    learned = [name for name, p in body.named_parameters() if p.requires_grad]
    assert len(learned) == 8
    assert any("in_proj_weight" in name for name in learned)


def test_what_cannot_be_is_said(weights, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"open_clip has no such net.*ViT-B-32"):
        OpenCLIP("ViT-B-23", None, None)
    with pytest.raises(UserError, match="which classes did they see"):
        OpenCLIP("tiny", weights, None).seen()
    with pytest.raises(UserError, match="could not be had"):
        OpenCLIP("tiny", str(tmp_path / "none.pt"), "none").load(OpenCLIP("tiny", weights, "none").build(3, 32))
    with pytest.raises(UserError, match=r"cannot take images of 64x64.*data\.size"):
        OpenCLIP("tiny", weights, "none").build(3, 64)
    with pytest.raises(UserError, match="a trained text encoder"):
        OpenCLIP("tiny", None, None).embed_texts(["x"])
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"pip install 'metalab\[clip\]'"):
        OpenCLIP("tiny", None, None)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """support/ and images/ of three colours, a folder a class."""
    rng = np.random.default_rng(0)
    for part, count in (("support", 2), ("images", 3)):
        for name, colour in COLOURS.items():
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-20, 20, (32, 32, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def reads(order: dict[str, str]):
    """Return a text encoder that sees in a text the colour which another one stands for."""

    def embed_texts(self: OpenCLIP, texts: list[str]) -> torch.Tensor:
        body = self.build(3, 32)
        self.load(body)
        own = [next(order[name] for name in COLOURS if name in text) for text in texts]
        x = torch.tensor([COLOURS[name] for name in own])[:, :, None, None].expand(-1, 3, 32, 32) / 255
        normalize = self.normalization()
        assert isinstance(normalize, nn.Module)
        return body.eval()(normalize(x)).flatten(1).detach()

    return embed_texts


@pytest.mark.parametrize("turned", [False, True])
def test_class_names_decide_in_predict_and_of_all_classes_at_once(weights, pictures, command_line, monkeypatch, turned):
    """With algo.alpha=0 the support counts for nothing: other names, other answers."""
    monkeypatch.chdir(pictures)
    monkeypatch.setenv("METALAB_CACHE", str(pictures / "cache"))
    order = dict(zip(COLOURS, [*list(COLOURS)[1:], "red"] if turned else COLOURS, strict=True))
    monkeypatch.setattr(OpenCLIP, "embed_texts", reads(order))
    net = ("run=null", "backbone=open_clip", "backbone.name=tiny", f"backbone.weights={weights}", "device=cpu")
    net += ("backbone.classes=none", "algo=tip_adapter", "algo.alpha=0")
    code, said = command_line("predict", *net, "support=support", "images=images", "hydra.run.dir=p")
    assert code == 0, said
    with (pictures / "p" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    answers = {row["file"].partition("/")[0]: row["label"] for row in rows}
    assert len(rows) == 9
    assert answers == {true: name for name, true in order.items()}
    data = ("data=folder", "data.root=images", "data.ratios=[0,0,1]", "task=all_way", "task.shot=1", "task.draws=2")
    code, said = command_line("eval", *net, *data, "hydra.run.dir=e")
    assert code == 0, said
    assert json.loads((pictures / "e" / "eval.json").read_text())["accuracy"] == (0.0 if turned else 1.0)


def test_the_text_encoder_has_open_clips_own_features_and_learns_by_lora_alone(weights):
    made, tokenize = OpenCLIP("tiny", weights, "none", lora=2, lora_on="qkv", lora_alpha=1.0).text_encoder()
    theirs: Any = open_clip.create_model("tiny", pretrained=weights).eval()
    texts = ["a photo of a dog.", "a photo of a cat."]
    assert torch.equal(tokenize(texts), open_clip.get_tokenizer("tiny")(texts))
    assert torch.allclose(made(tokenize(texts)), theirs.encode_text(tokenize(texts)), atol=1e-6)
    learned = [name for name, p in made.named_parameters() if p.requires_grad]
    assert [name.rpartition(".")[2] for name in learned] == ["up", "down"]  # one layer
    assert not any("visual" in name for name, _ in made.named_parameters())
    without, _ = OpenCLIP("tiny", weights, "none").text_encoder()
    assert not any(p.requires_grad for p in without.parameters())


def test_both_encoders_learn_which_names_the_colours_have(weights, pictures, command_line, monkeypatch):
    """Of a CLIP that nobody trained names say nothing; after a task's steps they are told apart."""
    monkeypatch.chdir(pictures)
    monkeypatch.setenv("METALAB_CACHE", str(pictures / "cache"))
    net = ("run=null", "backbone=open_clip", "backbone.name=tiny", f"backbone.weights={weights}", "device=cpu")
    net += ("backbone.classes=none", "backbone.lora=4", "backbone.lora_on=qkv", "algo=clip_lora", "algo.crop=0")
    data = ("data=folder", "data.root=images", "data.ratios=[0,0,1]", "task=all_way", "task.shot=1", "task.draws=2")
    found = {}
    for steps in (0, 40):
        words = (*net, f"algo.test_steps={steps}", "algo.lr=0.02", *data, f"hydra.run.dir=e{steps}")
        code, said = command_line("eval", *words)
        assert code == 0, said
        found[steps] = json.loads((pictures / f"e{steps}" / "eval.json").read_text())["accuracy"]
    assert found[0] < 0.7
    assert found[40] == 1.0
    words = (*net, "algo.test_steps=40", "algo.lr=0.02", "support=support", "images=images", "hydra.run.dir=p")
    code, said = command_line("predict", *words)
    assert code == 0, said
    with (pictures / "p" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert all(row["file"].partition("/")[0] == row["label"] for row in rows)
