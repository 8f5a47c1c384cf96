"""Each regularizer that attacks nothing, by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.core.interfaces import Batch, Episode
from metalab.regularizers import Regularizer
from metalab.regularizers.dropout import DropBlock
from metalab.regularizers.input_noise import Noise
from metalab.regularizers.mixup import CutMix, Mixup, share_of
from metalab.regularizers.output_penalties import Confidence, Entropy, LabelSmoothing
from metalab.regularizers.weight_penalties import GradientNorm
from tests.attacks.nets import PROGRESS
from tests.regularizers.made import loss_of, objective

LOGITS, Y = torch.tensor([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 2])

BATCH = Batch(torch.zeros(2, 1, 1, 1), Y, torch.zeros(0, 1, 1, 1))


def value(part: Regularizer) -> Tensor:
    return part.hooks().outer(cross_entropy)(lambda x: LOGITS, BATCH)


def test_metaoptnets_label_smoothing_spreads_over_the_other_classes():
    """Its code's target is 1 - eps and eps / (way - 1) for each other class: here eps way / (way - 1)."""
    way, eps = LOGITS.shape[1], 0.1
    onehot = nn.functional.one_hot(Y, way).to(LOGITS)
    theirs = onehot * (1 - eps) + (1 - onehot) * eps / (way - 1)
    expected = -(theirs * LOGITS.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(value(LabelSmoothing(eps * way / (way - 1), 0.0)), expected)


def test_label_smoothing_is_torchs():
    expected = nn.functional.cross_entropy(LOGITS, Y, label_smoothing=0.1)
    torch.testing.assert_close(value(LabelSmoothing(0.1, 0.0)), expected)
    inner = LabelSmoothing(0.0, 0.1).hooks()
    torch.testing.assert_close(inner.inner(cross_entropy)(lambda x: LOGITS, BATCH), expected)
    assert inner.outer(cross_entropy) is cross_entropy


def test_the_confidence_penalty_is_least_at_one_half():
    p = LOGITS.softmax(1)
    expected = cross_entropy(lambda x: LOGITS, BATCH) - 0.3 * (p * (1 - p)).log().mean()
    torch.testing.assert_close(value(Confidence(0.3)), expected)

    def penalty(lead: float) -> float:
        pair = Batch(BATCH.x[:1], torch.tensor([0]), BATCH.unlabelled)
        logits = torch.tensor([[lead, 0.0]])
        whole = Confidence(1.0).hooks().outer(cross_entropy)(lambda x: logits, pair)
        return (whole - cross_entropy(lambda x: logits, pair)).item()

    assert penalty(0.0) == pytest.approx(math.log(4))
    assert penalty(-3) > penalty(-1) > penalty(0.0) < penalty(1) < penalty(3)
    assert penalty(200.0) == pytest.approx(200, rel=1e-3)  # 1-p is 0 in float32, its logarithm is not


def test_entropy_by_hand():
    p = LOGITS.softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(value(Entropy(0.5)), cross_entropy(lambda x: LOGITS, BATCH) - 0.5 * entropy)


def test_the_gradient_norm_is_of_the_support_loss_at_theta(one):
    algorithm, steps, episode, learner = one
    got = objective("maml", [GradientNorm(0.3)])(learner, episode, PROGRESS).loss
    names = [n for n in learner.parameters() if n.startswith(("body.", "head."))]
    at = learner.grad(lambda here: cross_entropy(here, episode.support), names)
    square = sum(g.square().sum() for g in at.values())
    torch.testing.assert_close(got, loss_of(algorithm, steps, learner, *episode) + 0.3 * square)


def test_mixup_and_cutmix_mix_the_images_as_they_mix_the_losses():
    x = torch.cat([torch.zeros(1, 1, 20, 20), torch.ones(1, 1, 20, 20)])
    batch, seen = Batch(x, torch.tensor([0, 1]), x[:0]), []

    def ones(images: Tensor) -> Tensor:
        seen.append(images)
        share = images.mean((1, 2, 3))
        return torch.stack([torch.zeros_like(share), share], 1)

    def label(model, batch: Batch) -> Tensor:
        model(batch.x)
        return batch.y.float()[1]  # of the second image

    for part in (Mixup(1.0), CutMix(1.0)):
        torch.manual_seed(1)
        shares = []
        for _ in range(40):
            seen.clear()
            mean = part.hooks().outer(label)(ones, batch)
            assert len(seen) == 1  # one pass
            torch.testing.assert_close(mean, seen[0][1].mean())  # its label's share is its pixels' share
            shares.append(mean.item())
        assert min(shares) < 0.4
        assert max(shares) > 0.9
        values = seen[0].unique()
        assert (len(values) > 2) == isinstance(part, Mixup) or len(values) == 2


def test_the_shares_are_beta_distributed():
    torch.manual_seed(0)
    like = torch.zeros(1, 1, 1, 1)
    drawn = torch.stack([share_of(0.4, like) for _ in range(4000)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)


def test_noise_has_its_size_and_its_place():
    learner = None
    x = torch.full((50, 1, 8, 8), 0.5)
    episode = Episode(Batch(x, torch.zeros(50).long(), x[:0]), Batch(x, torch.zeros(50).long(), x[:0]))
    for kind, deviation in {"sign": 0.1, "uniform": 0.1 / 3**0.5}.items():
        for on in ("query", "support", "both"):
            seen = []

            def watch(outer, seen=seen):
                return lambda learner, episode, progress: seen.append(episode)

            made = Noise(25.5, kind, on).hooks().wrap_objective(watch, None)  # type: ignore[arg-type]
            made(cross_entropy)(learner, episode, PROGRESS)  # type: ignore[arg-type]
            for part, named in zip(seen[0], ("support", "query"), strict=True):
                if on in (named, "both"):
                    assert (part.x - 0.5).std() == pytest.approx(deviation, rel=0.05)
                    assert (part.x - 0.5).abs().max() <= 0.1 + 1e-6
                else:
                    assert torch.equal(part.x, x)
    white = Batch(torch.ones(4, 1, 2, 2), torch.zeros(4).long(), x[:0])
    made = Noise(25.5, "sign", "query").hooks().wrap_objective(watch, None)  # type: ignore[arg-type]
    seen.clear()
    made(cross_entropy)(learner, Episode(white, white), PROGRESS)  # type: ignore[arg-type]
    assert seen[0].query.x.max() <= 1


def test_dropblock_drops_blocks_in_training_only():
    torch.manual_seed(0)
    drop = DropBlock(0.3, 3).hooks().drop
    assert drop is not None
    x = torch.ones(20, 8, 9, 9)
    assert (drop.train()(x) == 0).float().mean() == pytest.approx(0.3, abs=0.1)
    assert torch.equal(drop.eval()(x), x)
