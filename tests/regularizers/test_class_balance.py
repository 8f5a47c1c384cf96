"""reg=class_balanced: the loss of inner steps with each class's weight."""

import logging

import pytest
import torch
import torch.nn.functional as F

from metalab.algorithms.objectives.prediction import cross_entropy
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch
from metalab.regularizers.class_balance import ClassBalanced
from tests.configs import training_setup

Y = torch.tensor([0, 0, 0, 0, 1, 1, 2])
LOGITS = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def value(beta: float, y: torch.Tensor = Y) -> torch.Tensor:
    batch = Batch(torch.zeros(len(y), 1, 1, 1), y, torch.zeros(0, 1, 1, 1))
    return ClassBalanced(beta).hooks().inner(cross_entropy)(lambda x: LOGITS[: len(y)], batch)


def test_at_1_it_is_the_mean_over_the_classes_of_their_means():
    each = F.cross_entropy(LOGITS, Y, reduction="none")
    torch.testing.assert_close(value(1.0), torch.stack([each[k == Y].mean() for k in range(3)]).mean())


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_between_it_is_torchs_weighted_cross_entropy(beta):
    weight = torch.tensor([(1 - beta) / (1 - beta**n) for n in (4, 2, 1)], dtype=torch.float64)
    torch.testing.assert_close(value(beta), F.cross_entropy(LOGITS, Y, weight=weight))


def test_at_0_and_for_classes_of_one_size_it_is_off():
    assert ClassBalanced(0.0).hooks().inner(cross_entropy) is cross_entropy
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    torch.testing.assert_close(value(1.0, y), F.cross_entropy(LOGITS[:6], y))


def test_other_strengths_are_refused():
    with pytest.raises(UserError, match=r"reg\.class_balanced\.beta=2: expected 0 .* to 1"):
        ClassBalanced(2.0)


def test_where_training_has_equal_supports_it_is_said_that_it_does_nothing_there(small, caplog):
    caplog.set_level(logging.INFO, "metalab")
    training_setup(small("algo=maml", "reg=class_balanced"))
    assert "reg.class_balanced: training episodes have as many images of each class" in caplog.text
    caplog.clear()
    training_setup(small("algo=maml", "reg=class_balanced", "task=variable", "train.meta_batch=1"))
    assert "class_balanced" not in caplog.text
