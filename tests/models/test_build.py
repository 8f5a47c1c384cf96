import re

import pytest
import torch
from torch import nn

from metalab.algorithms.build import AlgorithmSettings, build_algorithm
from metalab.config.instantiate import parts_of
from metalab.core.device import resolve_device
from metalab.core.errors import UserError
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.engines.learn2learn import Learn2Learn
from metalab.evaluation.objectives import measured_objective
from metalab.models.build import build_net, image_shape, normalization
from metalab.regularizers import Hooks
from metalab.training.optimizers import Clip, LRSchedule
from tests.configs import backbone as made_backbone


def test_a_node_is_split_by_the_fields_of_dataclasses():
    node = {"_target_": "x", "lr": 1, "every": 2, "clip_norm": 3}
    assert parts_of(node, LRSchedule, Clip) == [{"every": 2}, {"clip_norm": 3}, {"_target_": "x", "lr": 1}]


def test_the_keys_with_test_stand_in_at_test(small):
    node = small("algo=reptile").algo
    (how, trained), (at_test, tested) = build_algorithm(node, 7, test=False), build_algorithm(node, 5, test=True)
    assert (how.steps, trained.batch, trained.way) == (5, 10, 7)  # type: ignore[attr-defined]
    assert (at_test.steps, tested.batch, tested.way) == (50, 5, 5)  # type: ignore[attr-defined]
    assert (how.name, at_test.name) == ("reptile", "reptile")


@pytest.mark.parametrize(
    ("change", "test", "message"),
    [
        (
            "algo.test_steps=-1",
            True,
            "algo.steps, algo.test_steps must be 0 or more, here -1; algo.meta_batch 1 or more",
        ),
        (
            "algo.steps=-1",
            False,
            "algo.steps, algo.test_steps must be 0 or more, here -1; algo.meta_batch 1 or more, here 32",
        ),
        (
            "algo.meta_batch=0",
            False,
            "algo.steps, algo.test_steps must be 0 or more, here 1; algo.meta_batch 1 or more, here 0",
        ),
        (
            "algo.bn=layer",
            False,
            "algo.bn=layer (text): expected one of batch, support, one, running, as in algo.bn=batch",
        ),
        ("+algo.lrr=1", False, "algo.lrr=1: MAML has no such setting. Did you mean algo.lr?"),
        ("+algo.test_foo=1", True, "algo.foo=1: MAML has no such setting."),
    ],
)
def test_mistakes_in_the_algorithm_are_told(small, change, test, message):
    node = small("algo=maml", change).algo
    with pytest.raises(UserError, match=re.escape(message)):
        build_algorithm(node, 5, test)


def test_a_method_is_told_from_the_algorithms_own_fields():
    assert AlgorithmSettings("a", "b", "batch", 1, None, None, None).steps == 0  # a metric method has no inner steps


def test_normalization_measures_each_channel():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (500, 2, 8, 8), dtype=torch.uint8)
    images[:, 1] = 51
    x = normalization(images)(images / 255)
    assert abs(x[:, 0].mean().item()) < 1e-5
    assert abs(x[:, 0].std().item() - 1) < 1e-4
    assert torch.isfinite(x).all()  # one channel is flat
    assert normalization(images).mean.flatten()[1] == pytest.approx(0.2)


def test_images_must_be_square(tiny):
    assert image_shape(tiny["train"]) == (1, 16)
    split = type(tiny["train"])(torch.zeros(4, 1, 8, 9, dtype=torch.uint8), *[torch.zeros(1).long()] * 2, ["a"], ["a"])
    with pytest.raises(UserError, match=r"the images are 8x9; the backbones take square ones: give data.size one"):
        image_shape(split)


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("tpu", "cuda:99"):
        with pytest.raises(UserError, match=rf"^device={name} is not here; choose one of: auto, cpu"):
            resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_absent_is_one_message():
    with pytest.raises(UserError, match=r"^device=cuda is not here; choose one of: auto, cpu$"):
        resolve_device("cuda")


@pytest.mark.parametrize("train_way", [4, 6])
def test_a_head_for_another_way_is_told_on_the_cpu_and_before_any_index_is_out_of_bounds(small, tiny, train_way):
    cfg = small("algo=reptile", "algo.test_steps=1")
    _, trained = build_algorithm(cfg.algo, train_way, test=False)
    how, tested = build_algorithm(cfg.algo, 5, test=True)
    net = build_net(made_backbone(cfg.backbone), trained, nn.Sequential(), normalization(tiny["train"].images), 16)
    episodes = EpisodeSampler(tiny["val"], 5, 1, 2, 2, 0, "val", torch.device("cpu"))(0)
    with pytest.raises(UserError) as error:
        Learn2Learn().evaluate(measured_objective(how, tested, "batch", 5, Hooks()), net, episodes)
    assert str(error.value) == (
        f"the head was learned for {train_way} classes and the task has 5; give task.way={train_way} and "
        "task.train_way the same (and no task=all_way), or train an algorithm that takes any way: protonet, or maml "
        "with algo.head_init=zero, random, prototype or knn"
    )
