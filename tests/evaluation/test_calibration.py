"""The expected calibration error against a plain computation, and what a temperature changes and leaves."""

import math

import numpy as np
import pytest
import torch

from metalab.config.instantiate import settings
from metalab.config.schema import Eval
from metalab.core.errors import UserError
from metalab.evaluation.calibration import BINS, fit_temperature, negative_log_likelihood, reliability


def drawn(images: int = 4000, classes: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and labels that are drawn by these very probabilities: calibrated as they are."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def plain_ece(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    """Guo et al. 2017, eqs. 3 and 5, image by image in Python."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        powers = [math.exp(each / temperature) for each in row]
        confidence = max(powers) / sum(powers)
        m = next(m for m in range(1, BINS + 1) if (m - 1) / BINS < confidence <= m / BINS)
        bins.setdefault(m, []).append((confidence, row.index(max(row)) == label))
    error = 0.0
    for held in bins.values():
        confidence, right = (sum(each) / len(held) for each in zip(*held, strict=True))
        error += len(held) / len(labels) * abs(right - confidence)
    return error


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_expected_calibration_error_is_that_of_a_plain_computation(classes, temperature):
    logits, labels = drawn(500, classes)
    found = reliability(logits, labels, temperature)
    assert found.ece == pytest.approx(plain_ece(logits, labels, temperature), abs=1e-12)
    assert found.count.sum() == 500


def test_a_calibrated_net_has_hardly_any_error_and_one_that_is_too_sure_has():
    logits, labels = drawn()
    assert reliability(logits, labels).ece < 0.02
    assert reliability(3 * logits, labels).ece > 0.1


def test_a_temperature_is_found_again_and_changes_no_prediction():
    logits, labels = drawn()
    found = fit_temperature(3 * logits, labels)
    assert found == pytest.approx(3, rel=0.05)
    grid = [negative_log_likelihood(3 * logits, labels, t) for t in np.linspace(2.5, 3.5, 101)]
    assert negative_log_likelihood(3 * logits, labels, found) <= min(grid) + 1e-9
    before, after = reliability(3 * logits, labels), reliability(3 * logits, labels, found)
    assert after.ece < 0.02 < before.ece
    for each in (before, after):
        right = np.nan_to_num(each.count * each.accuracy).sum() / each.count.sum()
        assert right == pytest.approx((logits.argmax(1) == labels).double().mean().item(), abs=1e-12)


def test_what_is_no_number_is_wrong_without_confidence():
    logits, labels = torch.tensor([[math.nan, 0.0], [4.0, -4.0]]), torch.tensor([0, 0])
    found = reliability(logits, labels)
    assert (found.count[0], found.accuracy[0], found.confidence[0]) == (1, 0, 0)
    assert found.accuracy[-1] == 1
    assert math.isfinite(fit_temperature(logits, labels))


@pytest.mark.parametrize(("given", "said"), [(0, "expected a number above 0"), ("often", "expected one of fit or a n")])
def test_a_temperature_that_is_none_is_refused(given, said):
    whole = {"episodes": 2, "bn": None, "split": "test", "allow_overlap": False, "batch": 1}
    assert settings(Eval, {**whole, "temperature": 2}, "eval").temperature == 2
    with pytest.raises(UserError, match=rf"eval\.temperature={given}.*: {said}"):
        settings(Eval, {**whole, "temperature": given}, "eval")
