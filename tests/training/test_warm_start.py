"""train.init: a new run from another's weights."""

import logging
import re
from dataclasses import replace

import pytest
import torch

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.tracking import checkpoint
from metalab.training import train
from metalab.training.warm_start import refuse_leaked, refuse_leaked_images, refuse_leaked_validation


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_warm_start_names_what_starts_afresh_and_what_is_left(small, tmp_path, caplog):
    caplog.set_level(logging.INFO, "metalab")
    train.run(small("algo=anil", "train.meta_batch=1"), tmp_path / "anil")
    train.run(small("train.steps=1", f"train.init={tmp_path / 'anil'}"), tmp_path / "proto")
    assert re.search(r"starts from \S+anil after its step \d; not taken: head\n", caplog.text)
    train.run(
        small("algo=anil", "train.steps=1", "train.meta_batch=1", f"train.init={tmp_path / 'proto'}"), tmp_path / "b"
    )
    assert re.search(r"starts from \S+proto after its step 1; afresh: head\n", caplog.text)


@pytest.mark.slow
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


@pytest.mark.parametrize("by_image", [True, False])
def test_validation_images_that_a_run_saw_without_labels_are_refused(by_image):
    two = torch.tensor([2, 2])
    images, files = [f"image:{i}" for i in range(4)], [f"sketch/{i}.png" for i in range(4)]
    val = Split(torch.zeros(4, 1, 2, 2), two.cumsum(0) - two, two, ["folder:named:a", "folder:named:b"], ["a", "b"])
    val = replace(val, files=files, image_ids=images, by_image=by_image)
    known = {"unlabelled:image:1", "unlabelled:image:2", "unlabelled:image:9"}
    for refuse in (refuse_leaked_images, refuse_leaked_validation):
        refuse(val, {"unlabelled:image:9"}, "train.init=x")
        with pytest.raises(
            UserError, match=r"^train\.init=x saw 2 of the 4 validation images .* sketch/1\.png the first"
        ):
            refuse(val, known, "train.init=x")


def test_validation_images_that_an_earlier_training_saw_are_told_and_classes_may_be_the_same():
    one = torch.tensor([1])
    val = Split(torch.zeros(1, 1, 2, 2), one - 1, one, ["folder:named:a"], ["a"], ["sketch/1.png"], ["image:1"])
    val = replace(val, by_image=True)
    refuse_leaked(val, {"folder:named:a", "image:2"}, "an earlier phase")
    with pytest.raises(UserError, match=r"^an earlier phase saw 1 of the 1 validation images without their labels"):
        refuse_leaked(val, {"unlabelled:image:1"}, "an earlier phase")
    with pytest.raises(UserError, match=r"^an earlier phase was trained on 1 of the 1 validation images"):
        refuse_leaked(val, {"image:1"}, "an earlier phase")
