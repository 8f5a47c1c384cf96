"""Tip-Adapter: its formula by hand, its steps by torch's AdamW, and names where there is a text encoder."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalab.algorithms.objectives.prediction import cross_entropy, predict_transductive
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.algorithms.transfer_learning.tip_adapter import TipAdapter
from metalab.core.errors import UserError
from metalab.models.text_classifier import UNREAD, TextClassifier, read_names, spoken, text_classifier
from tests.algorithms.metric_cases import WAY, apart, episodes, learner_of, net_of, one

NAMES = ["animals/gray_wolf", "cat", "owl"]
TEMPLATES = ["a photo of a {}.", "a drawing of a {}."]


def made(alpha: float = 1.5, beta: float = 5.5, lr: float = 0.001) -> TipAdapter:
    return TipAdapter(WAY, alpha, beta, 100.0, lr, TEMPLATES)


class Encoder:
    """Features of texts, drawn for each text anew, and the texts that were asked for."""

    def __init__(self, features: int) -> None:
        self.features, self.asked = features, list[str]()

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        self.asked += texts
        return torch.stack([self.of(text) for text in texts])

    def of(self, text: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(sum(text.encode()))
        return torch.randn(self.features, generator=generator, dtype=torch.float64)


def named(algorithm, names=NAMES):
    net = net_of(algorithm)
    encoder = Encoder(net.get_submodule("text").features.shape[1])  # type: ignore[union-attr, arg-type]
    assert read_names(net, encoder, names) == ""
    return net, encoder


def units(net, x):
    return F.normalize(net("features", x).flatten(1), dim=1)


def test_logits_are_those_of_the_papers_equation():
    algorithm, (support, query) = made(), one(episodes())
    net, encoder = named(algorithm)
    shown = ["gray wolf", "cat", "owl"]
    assert encoder.asked == [t.replace("{}", name) for name in shown for t in TEMPLATES]
    rows = []
    for f in units(net, query.x):
        row = []
        for k, name in enumerate(shown):
            text = torch.stack([F.normalize(encoder.of(t.replace("{}", name)), dim=0) for t in TEMPLATES]).sum(0)
            votes = [torch.exp(-5.5 * (1 - f @ key)) for key in units(net, support.x)[support.y == k]]
            row.append(100 * f @ F.normalize(text, dim=0) + 1.5 * torch.stack(votes).sum())
        rows.append(torch.stack(row))
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    assert torch.allclose(model(query.x), torch.stack(rows), atol=1e-10)


def test_steps_are_those_of_torchs_adamw_on_the_cache():
    algorithm, (support, query) = made(lr=0.05), one(episodes())
    net, _ = named(algorithm)
    known, text = units(net, support.x).detach(), text_classifier(net).features  # type: ignore[union-attr]
    keys, labels = nn.Parameter(known.clone()), F.one_hot(support.y, WAY).double()

    def logits(f):
        return 100 * f @ text.T + 1.5 * torch.exp(5.5 * (f @ keys.T - 1)) @ labels

    optimizer = torch.optim.AdamW([keys], lr=0.05, weight_decay=0.01)
    first, *_, last = algorithm.adapt(learner_of(net), support, cross_entropy, 4)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(logits(known), support.y).backward()
        optimizer.step()
    assert torch.allclose(last(query.x), logits(units(net, query.x)), atol=1e-6)
    assert (last(query.x) - first(query.x)).abs().max() > 1e-2


def test_without_an_encoder_or_names_the_support_decides_alone_and_it_is_said():
    algorithm, (support, query) = made(alpha=2.0), one(episodes())
    net = net_of(algorithm)
    assert read_names(net, object(), NAMES) == UNREAD
    (model,) = algorithm.adapt(learner_of(net), support, cross_entropy, 0)
    near = torch.exp(5.5 * (units(net, query.x) @ units(net, support.x).T - 1))
    assert torch.allclose(model(query.x), 2 * near @ F.one_hot(support.y, WAY).double(), atol=1e-12)
    assert read_names(nn.Linear(2, 2), object(), NAMES) == ""


def test_a_name_is_encoded_once_and_numbers_of_wordnets_are_refused():
    net, encoder = named(made())
    text = text_classifier(net)
    assert isinstance(text, TextClassifier)
    before, count = text.features, len(encoder.asked)
    text.name(NAMES[::-1])
    assert torch.equal(text.features, before.flip(0))
    text.name(["dog", *NAMES[1:]])
    assert len(encoder.asked) == count + len(TEMPLATES)
    count = len(encoder.asked)
    text.name(["n02085620-dog", "001.cat", "3d_owl"])
    assert encoder.asked[count:] == [t.replace("{}", "3d owl") for t in TEMPLATES]
    with pytest.raises(UserError, match="n01532829 is a number of WordNet's"):
        text.name(["n01532829", "cat"])


def test_a_slash_between_words_is_no_path():
    assert spoken(["animals/gray_wolf", "Ram C/V Cargo Van", "001.cat"]) == ["gray wolf", "Ram C/V Cargo Van", "cat"]


def test_names_alone_need_names():
    net, (support, _) = net_of(made(alpha=0.0)), one(episodes())
    with pytest.raises(UserError, match=r"algo\.alpha=0 asks class names alone, and none are read here"):
        next(made(alpha=0.0).adapt(learner_of(net), support, cross_entropy, 0))


def test_both_engines_agree():
    algorithm = made(alpha=20.0)
    objective = QueryLoss(algorithm, 0, cross_entropy, cross_entropy, predict_transductive)
    far, gradient = apart(objective, net_of(algorithm), episodes())
    assert far < 1e-10
    assert max(g.abs().max() for g in gradient.values()) > 1e-6


@pytest.mark.parametrize(("values", "key"), [((-1.0, 5.5), "alpha"), ((1.0, 0.0), "beta"), ((1.0, 5.5, 0.0), "lr")])
def test_a_value_out_of_range_is_refused(values, key):
    with pytest.raises(UserError, match=rf"^algo\.{key}="):
        made(*values)


def test_a_template_without_a_place_for_the_name_is_refused():
    with pytest.raises(UserError, match=r"^algo\.templates=\['a photo'\]: expected sentences with {}"):
        TipAdapter(WAY, 1.0, 1.0, 1.0, 1.0, ["a photo"])
