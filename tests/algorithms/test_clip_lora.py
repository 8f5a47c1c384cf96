"""CLIP-LoRA: cosines to class names, and steps that are those of torch's AdamW on the additions to both encoders."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalab.algorithms.components.augmented_copies import Copies
from metalab.algorithms.components.fixed_draws import shuffled_batches
from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.algorithms.transfer_learning.clip_lora import CLIPLoRA
from metalab.core.errors import UserError
from metalab.models.pretrained.lora import LoRA, add_lora
from metalab.models.text_classifier import UNREAD, read_names
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one

NAMES, TEMPLATES, FEATURES = ["animals/gray_wolf", "cat", "owl"], ["a photo of a {}.", "a drawing of a {}."], 6
RANK2 = LoRA(2, "all", 1.0)


def made(lr: float = 0.05, batch: int = 4) -> CLIPLoRA:
    return CLIPLoRA(WAY, 10.0, lr, batch, 0.125, 0.5, TEMPLATES)


def body() -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 8, 5, 3), nn.ReLU(), nn.Conv2d(8, FEATURES, 4))
    add_lora(net, RANK2, True, "small")
    return net


class Texts(nn.Module):
    """Features [N,6] of tokens [N,L]."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(128, 8), nn.Linear(8, FEATURES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.words(tokens).tanh().mean(1))


class Backbone:
    """What has both encoders; only that of texts is asked for here."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        self.texts = Texts().double()
        add_lora(self.texts, RANK2, True, "texts")

    def text_encoder(self):
        def tokens(texts: list[str]) -> torch.Tensor:
            return torch.tensor([list(text.encode().ljust(40)) for text in texts])

        return self.texts, tokens


def named(algorithm):
    net, backbone = net_of(algorithm, body=body()), Backbone()
    assert read_names(net, backbone, NAMES) == ""
    return net, backbone


def by_hand(net, x):
    """Return the logits from the net's parts: images, and the mean of each name's two sentences."""
    shown = ["gray wolf", "cat", "owl"]
    tokens = torch.tensor([list(t.replace("{}", n).encode().ljust(40)) for n in shown for t in TEMPLATES])
    each = F.normalize(net.text.encoder(tokens), dim=1)
    texts = F.normalize(torch.stack([each[2 * k] + each[2 * k + 1] for k in range(WAY)]), dim=1)
    return 10 * F.normalize(net("features", x).flatten(1).double(), dim=1) @ texts.T


def test_without_steps_it_is_clip():
    net, _ = named(made())
    support, query = one(episodes())
    (model,) = made().adapt(learner_of(net), support, cross_entropy, 0)
    assert torch.allclose(model(query.x), by_hand(net, query.x), atol=1e-12)


def test_steps_are_those_of_torchs_adamw_and_its_cosine():
    net, _ = named(made())
    support, query = one(episodes(shot=3))
    theirs = copy.deepcopy(net)
    learned = [p for p in theirs.parameters() if p.requires_grad]
    assert len(learned) == 2 * 2 + 2 * 1  # both convolutions, and the text encoder's linear layer
    steps = 5
    optimizer = torch.optim.AdamW(learned, lr=0.05, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-6)
    models = list(made().adapt(learner_of(net), support, cross_entropy, steps))
    batches = shuffled_batches(len(support.y), 4, steps)
    for chosen, copies in zip(batches, Copies(0.125, 0.5, 0.0, 1.0).of_batches(support.x, batches), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(by_hand(theirs, copies), support.y[chosen]).backward()
        optimizer.step()
        schedule.step()
    assert len(models) == steps + 1
    assert torch.allclose(models[-1](query.x), by_hand(theirs, query.x), atol=1e-8)
    assert (models[-1](query.x) - models[0](query.x)).abs().max() > 0.1


def test_batches_go_through_all_images_each_round_in_a_new_order():
    found = shuffled_batches(6, 4, 6)
    assert found.shape == (6, 4)
    rounds = found.reshape(4, 6)
    assert all(sorted(each) == list(range(6)) for each in rounds.tolist())
    assert len({tuple(each) for each in rounds.tolist()}) > 1
    assert shuffled_batches(3, 32, 2).shape == (2, 3)
    assert shuffled_batches(3, 32, 0).shape == (0, 3)


def test_where_nobody_says_names_class_means_stand_in_their_place():
    net, (support, query) = net_of(made(), body=body()), one(episodes())
    assert read_names(net, object(), NAMES) == UNREAD
    models = list(made().adapt(learner_of(net), support, cross_entropy, 3))
    known, asked = (net("features", x).flatten(1) for x in (support.x, query.x))
    means = torch.stack([known[support.y == k].mean(0) for k in range(WAY)])
    cosines = F.cosine_similarity(asked[:, None], means[None], dim=2)
    assert torch.allclose(models[0](query.x), 10 * cosines, atol=1e-10)
    assert (models[3](query.x) - models[0](query.x)).abs().max() > 1e-2


def test_both_engines_agree():
    far, gradient = apart(
        QueryLoss(made(), 2, cross_entropy, cross_entropy, predict_transductive), net_of(made()), episodes()
    )
    assert far < 1e-10
    assert gradient


def test_what_it_needs_is_said():
    with pytest.raises(UserError, match=r"algo\.batch=0: expected a number above 0"):
        made(batch=0)
    with pytest.raises(UserError, match=r"algo\.templates=\['a photo'\]: expected sentences with {}"):
        CLIPLoRA(WAY, 10.0, 0.1, 4, 0.0, 0.0, ["a photo"])
