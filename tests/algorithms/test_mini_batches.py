"""Training on mini-batches of all classes, from the configuration on."""

import re

import pytest
import torch

from metalab.core.errors import UserError
from metalab.tracking import checkpoint
from metalab.training import train


@pytest.mark.slow
def test_training_way_is_all_training_classes_and_the_baseline_starts_another_run(small, tmp_path):
    """Phases compose: a baseline's body is the start of MAML, and MAML's of a fine-tuning."""
    train.run(small("algo=baseline", "task.train_way=null", "algo.epochs=1"), tmp_path / "baseline")
    saved = checkpoint.load(tmp_path / "baseline" / "last.pt")
    assert saved["train_way"] == 40
    assert saved["net"]["head.weight"].shape[0] == 40
    words = ("train.steps=1", "train.meta_batch=1", "train.val_every=1")
    train.run(small("algo=maml", f"train.init={tmp_path / 'baseline'}", *words), tmp_path / "maml")
    again = ("algo=finetune", "task.train_way=null", f"train.init={tmp_path / 'maml'}", "algo.test_steps=1")
    train.run(small(*again, "optim.lr=1e-9", *words), tmp_path / "fine")
    maml, fine = (checkpoint.load(tmp_path / name / "last.pt")["net"] for name in ("maml", "fine"))
    assert (maml["body.0.0.weight"] - fine["body.0.0.weight"]).abs().max() < 1e-6


@pytest.mark.slow
def test_a_run_on_mini_batches_resumes_bit_for_bit(small, tmp_path):
    words = ("algo=feature_extraction", "task.train_way=null", "algo.iterations=2")
    train.run(small(*words), tmp_path / "whole")
    train.run(small(*words, "train.steps=2"), tmp_path / "cut")
    train.run(small(*words, f"resume={tmp_path / 'cut'}"), tmp_path / "cut")
    whole, cut = (checkpoint.load(tmp_path / name / "last.pt")["net"] for name in ("whole", "cut"))
    assert all(torch.equal(whole[n], cut[n]) for n in whole)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("task.train_way=5",), "task.train_way=5: algo=baseline trains on mini-batches of all 40 training classes"),
        (("task.train_shot=1",), "task.train_shot=1: algo=baseline trains on mini-batches"),
        (("algo.mini_batch=1",), "algo.mini_batch=1: expected 2 images or more"),
        (("algo.dampening=2",), "algo.dampening=2: expected 0 to 1"),
        (("algo.weight_decay=-1",), "algo.weight_decay=-1: expected 0 or more"),
        (("algo.epochs=0",), "algo.epochs=0: expected a number above 0"),
        (("train.bn=support",), "train.bn=support: a mini-batch has no support"),
        (
            ("algo=finetune", "algo.layers=-1"),
            "algo.layers=-1: expected 0 or more of the body's layers, or null for all",
        ),
    ],
)
def test_what_mini_batches_cannot_give_is_refused(words, message, small, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        train.run(small("algo=baseline", "task.train_way=null", *words), tmp_path)
