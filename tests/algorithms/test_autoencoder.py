"""The autoencoder: it gives images of new classes back, never looks at a label, and hands its weights on."""

import logging

import pytest
import torch

from metalab.algorithms.objectives.reconstruction import ReconstructionLoss
from metalab.algorithms.transfer_learning.autoencoder import Autoencoder
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode
from metalab.engines.learn2learn import TaskLearner
from metalab.tracking import checkpoint
from metalab.training import train
from metalab.training.train import _init_or_resume
from tests.configs import training_setup

WORDS = ("algo=autoencoder", "algo.mini_batch=32", "task.train_way=null", "backbone.filters=16")


def reconstruct(small, x: torch.Tensor, y: torch.Tensor):
    torch.manual_seed(0)
    cfg = small(*WORDS)
    r = training_setup(cfg)
    net, *_ = _init_or_resume(cfg, r, None)
    return net, r.objective()(TaskLearner(net, True), Episode(Batch(x[:0], y[:0], x[:0]), Batch(x, y, x[:0])), y)  # type: ignore[arg-type]


@pytest.mark.slow
def test_it_gives_images_of_unseen_classes_back_better_than_their_mean_image(small, tiny, tmp_path):
    cfg = small(*WORDS, "train.steps=150", "train.val_every=150", "optim.lr=0.005")
    train.run(cfg, tmp_path)
    net, _ = reconstruct(small, tiny["test"].images[:8] / 255, torch.zeros(8, dtype=torch.long))
    net.load_state_dict(checkpoint.load(tmp_path / "best.pt")["net"])
    x = tiny["test"].images / 255
    with torch.no_grad():
        made = net("decoder", net("features", x).flatten(1), x)
    assert made.shape == x.shape
    assert (made - x).square().mean() < 0.7 * (x.mean(0) - x).square().mean()


def test_its_loss_does_not_know_the_labels(small, tiny):
    x = tiny["train"].images[:24] / 255
    for y in (torch.arange(24) % 5, torch.zeros(24, dtype=torch.long)):
        net, result = reconstruct(small, x, y)
        result.loss.backward()
        reached = {n: p.grad.norm().item() for n, p in net.named_parameters() if p.grad is not None}
        if y.any():
            first = reached
    assert reached == first
    assert len(reached) == len(list(net.parameters()))


def test_an_image_is_right_where_it_is_given_back_better_than_by_the_mean_image():
    class Perfect:
        def features(self, x):
            return x

        def part(self, name, features, like):
            return torch.where(torch.arange(4)[:, None, None, None] < 2, like, 1 - like)  # two kept, two inverted

    x = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, torch.zeros(4, dtype=torch.long), x[:0])
    result = ReconstructionLoss(None, 0, None, None, None)(Perfect(), Episode(batch, batch), torch.zeros(()))  # type: ignore[arg-type]
    assert result.correct.tolist() == [True, True, False, False]
    assert result.loss == (1 - 2 * x[2:]).square().mean() / 2


@pytest.mark.slow
def test_another_method_starts_from_its_weights(small, tmp_path, caplog):
    train.run(small(*WORDS), tmp_path / "first")
    caplog.set_level(logging.INFO, "metalab")
    cfg = small("algo=protonet", "backbone.filters=16", f"train.init={tmp_path / 'first'}", "train.steps=1")
    train.run(cfg, tmp_path / "second")
    assert "not taken: decoder" in caplog.text
    first, second = (checkpoint.load(tmp_path / name / "best.pt") for name in ("first", "second"))
    assert set(first["classes"]) == set(second["classes"])
    weight = "body.0.0.weight"
    assert 0 < (first["net"][weight] - second["net"][weight]).abs().max() < 0.01  # one step of Adam away


def test_a_regularizer_of_the_classes_loss_is_refused_and_weights_may_decay(small):
    with pytest.raises(UserError, match=r"reg\.mixup works on the loss of the query, from which this"):
        training_setup(small(*WORDS, "reg=mixup"))
    training_setup(small(*WORDS, "reg=l2"))


def test_a_backbone_without_convolutions_is_refused():
    with pytest.raises(UserError, match="backbone of convolutions and this one has none; type backbone=conv4"):
        Autoencoder(5, 8).parts(torch.nn.Flatten(), 64)
