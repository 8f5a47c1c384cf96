"""Every option of reg= trains, and what does nothing is refused by name."""

import re

import pytest
import torch

from metalab.algorithms.build import build_algorithm
from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.regularizers.build import build_regularizers
from metalab.regularizers.dropout import DropBlock
from metalab.regularizers.input_noise import Noise
from metalab.regularizers.mixup import CutMix, Mixup
from metalab.regularizers.output_penalties import Confidence, LabelSmoothing
from metalab.regularizers.weight_penalties import GradientNorm
from metalab.training import train
from tests.configs import training_setup

OPTIONS = sorted(path.stem for path in (conf_dir() / "reg").glob("*.yaml") if path.stem != "none")

ONE_STEP = ("train.steps=1", "train.val_every=1", "train.val_episodes=2", "train.meta_batch=2", "task.query=2")
CLASSIFIER = ("algo=baseline", "algo.mini_batch=6", "task.train_way=null")


@pytest.mark.slow
def test_every_option_trains_on_the_vectorized_engine(small, tmp_path):
    train.run(small("engine=vectorized", *ONE_STEP), tmp_path / "teacher")
    own = {
        "distill": [f"reg.distill.teacher={tmp_path / 'teacher'}"],
        "learned_loss": ["algo=maml"],
        "class_balanced": ["algo=maml"],
    }
    for option in OPTIONS:
        words = (f"reg={option}", *own.get(option, []), "engine=vectorized", *ONE_STEP)
        words += CLASSIFIER if option in ("entropy_target", "pseudo_labels") else ()
        train.run(small(*words), tmp_path / option)


def built(words: list[str], small, steps: int, algo: str | None = None):
    cfg = small(*words, *([f"algo={algo}"] if algo else []))
    return build_regularizers(cfg.reg, steps, build_algorithm(cfg.algo, 5, test=False)[0] if algo else None)


@pytest.mark.parametrize("option", ["label_smoothing", "mixup", "adv_fgsm", "adv_pgd"])
def test_what_works_on_the_query_is_refused_where_it_is_not_learned_from(option, small):
    message = f"reg.{option} works on the loss of the query, from which this algorithm does not learn"
    with pytest.raises(UserError, match=re.escape(message)):
        built([f"reg={option}"], small, 5, "reptile")
    built([f"reg={option}"], small, 5, "maml")
    built(["reg=adv_fgsm", "reg.adv_fgsm.on=support"], small, 5, "reptile")


def test_what_works_on_the_support_is_refused_where_there_is_none(small):
    message = "works on the support, and this algorithm trains on mini-batches, without one"
    for words in (["reg=gradient_norm"], ["reg=adv_pgd", "reg.adv_pgd.on=both"]):
        with pytest.raises(UserError, match=message):
            built(words, small, 5, "baseline")
    built(["reg=adv_pgd"], small, 5, "baseline")


def test_augmentation_reaches_the_images_that_are_trained_on_alone(small):
    plain, changed = (training_setup(small(*words)) for words in ((), ("reg=augment", "reg.augment.crop=2")))
    for part in (0, 1):
        assert not torch.equal(plain.training("train", 2)(0)[part].x, changed.training("train", 2)(0)[part].x)
        assert torch.equal(plain.training("running", 2)(0)[part].x, changed.training("running", 2)(0)[part].x)
        assert torch.equal(plain.validation()(0)[part].x, changed.validation()(0)[part].x)
    with pytest.raises(UserError, match=r"reg.augment.flip=2: expected a number from 0 to 1"):
        training_setup(small("reg=augment", "reg.augment.flip=2"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["where=inner"], "reg.adv_fgsm.where=inner with reg.adv_fgsm.on=query: the inner steps see the support alone"),
        (["where=inner", "on=support"], "reg.adv_fgsm.where works on inner steps and this algorithm has none"),
        (["how=trades"], "reg.adv_fgsm.how=trades with reg.adv_fgsm.random_start=false: at the image itself KL is"),
        (["how=trades", "on=both"], "reg.adv_fgsm.how=trades with reg.adv_fgsm.on=both: it compares one model's"),
        (["on=crossed", "how=add"], "reg.adv_fgsm.on=crossed is the mean of its two halves"),
        (["weight=-1"], "reg.adv_fgsm.weight=-1: expected 0 or more"),
        (["eps=-1"], "reg.adv_fgsm.eps=-1: expected a size in 255ths"),
    ],
)
def test_what_cannot_be_is_told(words, message, small):
    with pytest.raises(UserError, match=re.escape(message)):
        built(["reg=adv_fgsm", *(f"reg.adv_fgsm.{word}" for word in words)], small, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelSmoothing(1.0, 0.0), "reg.label_smoothing has weight=1, inner=0"),
        (lambda: Confidence(-1.0), "reg.confidence.weight=-1: below 0 the loss has no least value"),
        (lambda: GradientNorm(-1.0), "reg.gradient_norm.weight=-1: expected 0 or more"),
        (lambda: Mixup(0.0), "reg.mixup.alpha=0: expected a number above 0"),
        (lambda: CutMix(-1.0), "reg.cutmix.alpha=-1: expected a number above 0"),
        (lambda: Noise(256.0, "sign", "query"), "reg.noise.eps=256: expected a size in 255ths"),
        (lambda: DropBlock(1.0, 5), "reg.dropblock.p=1.0; a share from 0"),
        (lambda: DropBlock(0.1, 0), "reg.dropblock.block=0: expected a side of 1 or more"),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make()
