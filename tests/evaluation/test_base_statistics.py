"""Statistics of the training classes reach the algorithm when a run is evaluated: those of its own training images."""

import json

import pytest
import torch
from torch import Tensor, nn

from metalab.algorithms.components.base_statistics import BaseStatistics
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.evaluation import evaluate
from metalab.evaluation.checkpoint_transfer import measure_base_statistics
from metalab.models.layers import running_statistics
from metalab.models.meta_net import Net
from metalab.training import train
from tests.configs import evaluation_setup
from tests.data.folder import tree

ONE_STEP = ("train.steps=1", "train.val_every=1", "train.val_episodes=2")
CALIBRATED = (
    "data.absent=''",
    "algo=distribution_calibration",
    "eval.episodes=4",
    "algo.samples=20",
    "algo.iterations=10",
    "eval.report=false",
)


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A run of one step of another algorithm."""
    folder = tmp_path_factory.mktemp("run")
    train.run(small(*ONE_STEP, "algo=protonet"), folder)
    return folder


def test_they_are_those_of_the_training_classes(small, run):
    setup = evaluation_setup(run, small(*CALIBRATED))
    base = setup.net.get_submodule("base")
    assert isinstance(base, BaseStatistics)
    whole = setup.data.load("train")
    assert len(base.mean) == len(whole.ids)
    for k in (0, len(whole.ids) - 1):
        first, count = int(whole.first[k]), int(whole.count[k])
        with torch.no_grad(), running_statistics():
            f = setup.net("features", whole.images[first : first + count].float() / 255).flatten(1)
        torch.testing.assert_close(base.mean[k], f.mean(0), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(base.root[k].T @ base.root[k], f.T.cov(), rtol=1e-3, atol=1e-5)


def test_an_evaluation_draws_by_them(small, run, tmp_path, monkeypatch):
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "cache"))

    def record(name: str, *words: str):
        evaluate.run([(run, small(*CALIBRATED, *words))], tmp_path / name)
        return json.loads((tmp_path / name / "eval.json").read_text())

    plain = record("plain")
    assert record("alpha", "algo.alpha=5.0")["loss"] != plain["loss"]
    assert record("one", "eval.batch=1")["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    assert record("features", "eval.embed=true")["loss"] == pytest.approx(plain["loss"], rel=1e-4)


class Negative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_negative_features_are_told_where_a_power_is_taken():
    images = torch.arange(16, dtype=torch.uint8).view(4, 1, 2, 2)
    split = Split(images, torch.tensor([0, 2]), torch.tensor([2, 2]), ["a", "b"], ["a", "b"])
    for nonnegative in (False, True):
        base = BaseStatistics(4, nonnegative)
        net = Net(nn.Identity(), Negative(), nn.Sequential(), {"base": base})
        if nonnegative:
            with pytest.raises(UserError, match=r"type algo\.power=1, or take a body that ends in a ReLU"):
                measure_base_statistics(net, base, split)
        else:
            measure_base_statistics(net, base, split)
            assert base.mean.shape == (2, 4)


def test_a_class_that_is_turned_has_its_turn():
    images = torch.arange(16, dtype=torch.uint8).view(4, 1, 2, 2)
    ends = torch.tensor([0, 0]), torch.tensor([4, 4])
    split = Split(images, *ends, ["a", "a"], ["a", "turned"], turns=torch.tensor([0, 1]))
    base = BaseStatistics(4, False)
    measure_base_statistics(Net(nn.Identity(), Negative(), nn.Sequential(), {"base": base}), base, split)
    assert base.mean[1].tolist() == pytest.approx(base.mean[0].view(2, 2).rot90().flatten().tolist())


@pytest.mark.slow
def test_a_body_of_negative_features_is_refused_before_it_is_trained(small, tmp_path):
    words = ("algo=distribution_calibration", "algo.mini_batch=6", "task.train_way=null", "backbone=resnet12")
    filters = "backbone.filters=[4,4,4,4]"
    with pytest.raises(UserError, match=r"type algo\.power=1, or take a body that ends in a ReLU"):
        train.run(small(*ONE_STEP, *words, filters), tmp_path / "run")
    assert not (tmp_path / "run" / "best.pt").exists()
    train.run(small(*ONE_STEP, *words, filters, "algo.power=1"), tmp_path / "other")


def test_statistics_are_of_the_stored_batch_norm_alone(small, run):
    with pytest.raises(UserError, match=r"eval\.bn=support: algo=distribution_calibration .* type eval\.bn=running"):
        evaluation_setup(run, small(*CALIBRATED, "eval.bn=support"))


def test_a_run_on_a_folder_is_tested_on_another_one(small, tmp_path):
    tree(tmp_path / "own", classes=12)
    tree(tmp_path / "other", classes=6, offset=5000)
    folder = ("data=folder", f"data.cache={tmp_path / 'cache'}", "data.size=16", "task.train_way=5", "task.query=2")
    words = ("algo=distribution_calibration", "algo.mini_batch=6", "task.train_way=null", "task.way=2", *CALIBRATED[2:])
    train.run(small(*folder, f"data.root={tmp_path / 'own'}", *ONE_STEP, *words), tmp_path / "run")
    other = (f"data.root={tmp_path / 'other'}", "data.ratios=[0,0,1]")
    setup = evaluation_setup(tmp_path / "run", small(*folder, *other, *words))
    base = setup.net.get_submodule("base")
    assert isinstance(base, BaseStatistics)
    assert len(base.mean) == 8  # the training classes of the run's 12
    (tmp_path / "own").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="was trained on, and there are others in their place now"):
        evaluation_setup(tmp_path / "run", small(*folder, *other, *words))
    moved = (f"data.root={tmp_path / 'moved'}",)
    evaluation_setup(tmp_path / "run", small(*folder, *moved, *words))
