"""What to expect: leave-one-out over a support, its interval, the temperature, the threshold."""

import math
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from metalab.config.experiment import read_config
from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.serving.classifier import Classifier
from metalab.serving.expectation import LeftOut, expectation, leave_out, support_temperature
from metalab.serving.loading import load_run
from metalab.serving.predict import KEYS
from metalab.serving.rejection import conformal_threshold, largest_logit, least_scores, threshold
from tests.pretrained import mobilenet_weights

SHARED = os.environ.get("METALAB_SHARED_DATA")


class NearestMean:
    """An adaptation by class means, of inputs that are vectors; it notes what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[float], list[int]]] = []

    def adapt(self, inputs, labels, names):
        self.seen.append((inputs[:, 0].tolist(), labels.tolist()))
        means = torch.stack([inputs[labels == k].mean(0) for k in range(len(names))])
        return Classifier(names, lambda x: -((x[:, None] - means) ** 2).sum(-1), lambda x: x)


def test_each_image_is_left_out_once_and_classified_by_the_others():
    x = torch.arange(9.0)[:, None]
    y = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])  # 4, 2 and 3 images
    how = NearestMean()
    found = leave_out(how, x, y, ["a", "b", "c"])  # type: ignore[arg-type]
    assert found is not None
    assert len(how.seen) == 4
    left = [sorted(set(range(9)) - {int(v) for v in given}) for given, _ in how.seen]
    assert left == [[0, 4, 6], [1, 5, 7], [2, 8], [3]]
    assert (found.shot, found.alone, len(found.logits)) == ((1, 3), 0, 9)
    by_hand = [-((0 - 2) ** 2), -((0 - 5) ** 2), -((0 - 7.5) ** 2)]
    assert found.logits[0].tolist() == by_hand


def test_a_class_with_one_image_keeps_it():
    x, y = torch.arange(5.0)[:, None], torch.tensor([0, 0, 1, 2, 2])
    how = NearestMean()
    found = leave_out(how, x, y, ["a", "b", "c"])  # type: ignore[arg-type]
    assert found is not None
    assert (len(found.labels), found.alone, found.shot) == (4, 1, (1, 1))
    assert all(2.0 in given for given, _ in how.seen)
    assert leave_out(how, x[:3:2], torch.tensor([0, 1]), ["a", "b"]) is None  # type: ignore[arg-type]


def test_large_supports_have_ten_folds():
    x, y = torch.randn(60, 1), torch.arange(2).repeat_interleave(30)
    how = NearestMean()
    found = leave_out(how, x, y, ["a", "b"])  # type: ignore[arg-type]
    assert found is not None
    assert (len(how.seen), len(found.labels), found.shot) == (10, 60, (27, 27))


def test_labels_in_any_order_are_left_out_alike():
    x, y = torch.arange(6.0)[:, None], torch.tensor([1, 0, 1, 0, 1, 0])
    found = leave_out(NearestMean(), x, y, ["a", "b"])  # type: ignore[arg-type]
    assert found is not None
    assert len(found.labels) == 6


def left_out_of(logits, labels) -> LeftOut:
    return LeftOut(torch.tensor(logits, dtype=torch.float64), torch.tensor(labels), (4, 4), 0, 0.8)


def test_the_interval_is_wilson_s_with_room_above():
    """By the formula of Wilson 1927, for 20 of 25; five images a class have at least 4/5 of the error of four."""
    right = [[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 5
    found = expectation(left_out_of(right, [0] * 25))
    n, p, z = 25, 0.8, 1.959963984540054
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert found.accuracy == 0.8
    assert found.low == pytest.approx((centre - half) / (1 + z * z / n))
    assert found.high == pytest.approx(1 - 0.8 * (1 - (centre + half) / (1 + z * z / n)))
    assert "80 % of new images of these classes (95 %: 61 to 93 %)" in found.words


def test_the_temperature_is_the_likeliest_one():
    draw = torch.Generator().manual_seed(0)
    logits = 7 * torch.randn(4000, 3, generator=draw, dtype=torch.float64)
    labels = torch.multinomial((logits / 4).softmax(1), 1, generator=draw)[:, 0]
    assert support_temperature(LeftOut(logits, labels, (4, 4), 0, 0.8)) == pytest.approx(4, rel=0.08)
    certain = left_out_of([[1.0, 0.0]] * 10, [0] * 10)
    assert 0.05 < support_temperature(certain) < 1  # all right, and yet not without doubt
    assert float((torch.tensor([1.0, 0.0]) / support_temperature(certain)).softmax(0)[0]) == pytest.approx(
        11 / 12, abs=1e-3
    )


def test_the_threshold_loses_the_share_that_was_asked_for():
    """Over many draws, by the definition of split conformal prediction."""
    draw = np.random.default_rng(0)
    lost = []
    for _ in range(2000):
        limit = conformal_threshold(torch.from_numpy(draw.normal(size=39)), 0.1)
        assert limit is not None
        lost.append((draw.normal(size=50) < limit).mean())
    assert np.mean(lost) == pytest.approx(4 / 40, abs=0.005)
    assert conformal_threshold(torch.randn(18), 0.05) is None
    assert conformal_threshold(torch.randn(19), 0.05) is not None


def test_too_small_a_share_is_refused_with_the_number_that_would_do():
    few = left_out_of([[1.0, 0.0]] * 10, [0] * 10)
    with pytest.raises(UserError, match=r"predict.reject=0.05 needs 19 support images .* here 10"):
        threshold(few, 0.05, None)
    assert threshold(few, 0.05, torch.arange(100.0)).score == 4.0
    assert threshold(few, 0.1, None).score == 1.0


def test_the_number_that_is_named_is_enough_and_one_less_is_not():
    for share in (0.5, 0.4, 0.3, 0.2, 0.1, 0.07, 0.05, 0.01):
        needed = least_scores(share)
        assert conformal_threshold(torch.arange(float(needed)), share) == 0.0
        assert conformal_threshold(torch.arange(float(needed - 1)), share) is None


def test_the_score_is_the_nearest_class_s():
    assert largest_logit(torch.tensor([[1.0, 3.0], [-2.0, -5.0]])).tolist() == [3.0, -2.0]


def covers(adaptation, known, y, asked, asked_y, names) -> bool:
    """Return whether the interval that a support gives holds the accuracy on all other images."""
    left_out = leave_out(adaptation, known, y, names)
    assert left_out is not None
    expected = expectation(left_out)
    truth = (adaptation.adapt(known, y, names).of_inputs(asked).argmax(1) == asked_y).double().mean()
    return expected.low <= float(truth) <= expected.high


@pytest.mark.parametrize("shot", [2, 3, 5, 10])
def test_the_interval_covers_the_truth_of_200_supports(shot):
    """Of normal classes, 5 a support, whose true accuracy is taken on 1,000 further points."""
    draw, covered, way, dim = torch.Generator().manual_seed(1), 0, 5, 16
    y, asked_y = torch.arange(way).repeat_interleave(shot), torch.arange(way).repeat_interleave(200)
    for _ in range(200):
        means = 0.75 * torch.randn(way, dim, generator=draw)
        known = means[y] + torch.randn(len(y), dim, generator=draw)
        asked = means[asked_y] + torch.randn(len(asked_y), dim, generator=draw)
        covered += covers(NearestMean(), known, y, asked, asked_y, list("abcde"))
    assert 0.90 <= covered / 200 <= 0.98


@pytest.mark.net
@pytest.mark.skipif(SHARED is None, reason="METALAB_SHARED_DATA is not set")
def test_the_interval_covers_the_truth_on_photographs():
    """Of 200 supports of 5 of PACS's classes, 5 photos each, by a pretrained net: the truth is on all other photos."""
    images, labels = photographs(Path(str(SHARED)) / "pacs" / "pacs72.npz", 64)
    words = ["backbone=torchvision", "backbone.name=mobilenet_v2", f"backbone.weights={mobilenet_weights()}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose("predict", [*words, "backbone.classes=imagenet", "data.size=64", "device=cpu"])
    adaptation = load_run(None, read_config(cfg, KEYS), 100).adaptation
    inputs, draw, covered = adaptation.embed(images), torch.Generator().manual_seed(0), 0
    for _ in range(200):
        classes = torch.randperm(7, generator=draw)[:5].tolist()
        rows = [(labels == k).nonzero().flatten() for k in classes]
        rows = [row[torch.randperm(len(row), generator=draw)] for row in rows]
        known, asked = torch.cat([row[:5] for row in rows]), torch.cat([row[5:] for row in rows])
        y = torch.arange(5)
        asked_y = torch.cat([torch.full((len(row) - 5,), k) for k, row in enumerate(rows)])
        names = [str(k) for k in classes]
        covered += covers(adaptation, inputs[known], y.repeat_interleave(5), inputs[asked], asked_y, names)
    assert 0.90 <= covered / 200 <= 0.98


def photographs(path: Path, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the photos of PACS, uint8 [N,3,side,side], and their classes."""
    z = np.load(path)
    blob, ends = z["blob"].tobytes(), z["offsets"]
    chosen = np.flatnonzero(z["domains"] == list(z["domain_names"]).index("photo"))
    made = [Image.open(BytesIO(blob[ends[i] : ends[i + 1]])).convert("RGB").resize((side, side)) for i in chosen]
    pixels = np.stack([np.moveaxis(np.asarray(image), -1, 0) for image in made])
    return torch.from_numpy(pixels), torch.from_numpy(z["labels"][chosen].astype(np.int64))
