"""train.init: a new run from another's weights."""

import logging
import re

import pytest
import torch

from metalab.core.errors import UserError
from metalab.tracking import checkpoint
from metalab.training import train


def test_a_warm_start_takes_weights_and_class_ids(small, tmp_path, caplog):
    train.run(small("data.seed=0"), tmp_path / "a")
    caplog.set_level(logging.INFO, "metalab")
    warm = (f"train.init={tmp_path / 'a'}", "data.seed=1", "optim.lr=1e-30", "seed=5")
    train.run(small(*warm), tmp_path / "b")
    first, second = (checkpoint.load(tmp_path / run / "best.pt") for run in "ab")
    step = first["state"]["step"]
    assert f"starts from {tmp_path / 'a'} after its step {step}\n" in caplog.text
    running = [k for k in first["net"] if "running" not in k]
    assert [k for k in running if not torch.equal(first["net"][k], second["net"][k])] == []
    assert set(first["classes"]) < set(second["classes"])
    cold = small("data.seed=1", "optim.lr=1e-30", "seed=5")
    train.run(cold, tmp_path / "c")
    assert not torch.equal(checkpoint.load(tmp_path / "c" / "best.pt")["net"][running[-1]], first["net"][running[-1]])


def test_a_warm_start_names_what_starts_afresh_and_what_is_left(small, tmp_path, caplog):
    caplog.set_level(logging.INFO, "metalab")
    train.run(small("algo=anil", "train.meta_batch=1"), tmp_path / "anil")
    train.run(small("train.steps=1", f"train.init={tmp_path / 'anil'}"), tmp_path / "proto")
    assert re.search(r"starts from \S+anil after its step \d; not taken: head\n", caplog.text)
    train.run(
        small("algo=anil", "train.steps=1", "train.meta_batch=1", f"train.init={tmp_path / 'proto'}"), tmp_path / "b"
    )
    assert re.search(r"starts from \S+proto after its step 1; afresh: head\n", caplog.text)


@pytest.mark.parametrize(
    ("other", "tensor"), [("backbone.filters=5", "body.0.0.weight"), ("data.channels=3", "body.0.0.weight")]
)
def test_a_warm_start_that_does_not_fit(small, tmp_path, other, tensor):
    train.run(small(), tmp_path / "a")
    with pytest.raises(UserError) as error:
        train.run(small(other, f"train.init={tmp_path / 'a'}"), tmp_path / "b")
    text = str(error.value)
    assert text.startswith(f"train.init={tmp_path / 'a'}: its backbone {{_target_:metalab.models.Conv4,")
    assert "on images of shape [1, 16, 16] does not fit this one" in text
    assert f"the first is {tensor}. Choose the same backbone, data.size and channels" in text
    assert not (tmp_path / "b").exists()


def test_a_warm_start_from_validation_classes_is_refused(small, tmp_path):
    train.run(small(), tmp_path / "a")
    with pytest.raises(
        UserError, match=r"was trained on 6 of the 12 validation classes: tiny:\d+, .* and 1 more\. Give the"
    ):
        train.run(small(f"train.init={tmp_path / 'a'}", "data.seed=172"), tmp_path / "b")
    assert not (tmp_path / "b").exists()
