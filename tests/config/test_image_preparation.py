"""data.size=null: what the backbone's weights were trained on is written down, and evaluated with."""

import json

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torchvision import models

from metalab.config.experiment import read_config
from metalab.config.image_preparation import SIZE, fill_preparation, resolve_preparation
from metalab.config.instantiate import build
from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.evaluation import evaluate
from metalab.tracking import checkpoint
from metalab.training import train
from tests.data.folder import tree

NET = "shufflenet_v2_x0_5"
OWN = {"size": 224, "resize": 256, "interpolation": "bilinear"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(models.get_model(NET, weights=None).state_dict(), path)
    return str(path)


@pytest.fixture
def words(tmp_path, weights) -> list[str]:
    tree(tmp_path / "images", classes=9, images=2)
    own = ["backbone=torchvision", f"backbone.name={NET}", f"backbone.weights={weights}", "backbone.classes=none"]
    own += ["data=folder", f"data.root={tmp_path / 'images'}", f"data.cache={tmp_path / 'cache'}"]
    own += ["data.ratios=[0.4,0.3,0.3]", "algo=protonet", "task.way=2", "task.train_way=2", "task.query=1"]
    return [*own, "train.steps=1", "train.meta_batch=1", "train.val_episodes=2", "eval.episodes=2"]


def composed(small, words: list[str]) -> DictConfig:
    """Return small()'s configuration with another backbone, which has no filters, and other data."""
    kept = [word for word in small.words if word.partition("=")[0] not in ("backbone.filters", "data")]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("train", [*kept, *words])


def resolved(small, *words: str) -> dict:
    config = read_config(composed(small, list(words)))
    made = resolve_preparation(config, build(config.backbone, "backbone"))
    assert made.whole["data"] == made.data
    return {key: made.data[key] for key in OWN}


def test_a_folder_takes_the_size_of_the_backbones_weights_where_none_is_typed(small, words):
    assert resolved(small, *words) == OWN
    assert resolved(small, *words, "data.resize=300") == OWN | {"resize": 300}
    assert resolved(small, *words, "data.interpolation=bicubic") == OWN | {"interpolation": "bicubic"}
    typed = {"size": 64, "resize": None, "interpolation": None}
    assert resolved(small, *words, "data.size=64") == typed  # stretched and bicubic, as it was
    without = [*words, "backbone.weights=null", "backbone.classes=null"]
    assert resolved(small, *without) == typed | {"size": SIZE}


def test_members_of_a_union_have_a_size_and_other_data_is_left_as_it_is():
    folder = {"_target_": "metalab.data.Folder", "size": None, "resize": None, "interpolation": None}
    union = {"members": {"mine": folder, "other": {"size": None}}, "size": 28}
    assert fill_preparation(union)["members"] == {"mine": folder | {"size": SIZE}, "other": {"size": None}}
    assert fill_preparation(union, OWN)["members"]["mine"] == folder | OWN
    older = {"_target_": "metalab.data.Folder", "size": 84}
    assert fill_preparation(older, OWN) == older


@pytest.mark.slow
def test_the_run_keeps_how_its_images_were_prepared_and_is_evaluated_so(small, words, tmp_path):
    train.run(composed(small, words), tmp_path / "run")
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]
    saved = checkpoint.load(tmp_path / "run" / "best.pt")
    assert {key: kept[key] for key in OWN} == {key: saved["config"]["data"][key] for key in OWN} == OWN
    assert saved["shape"] == [3, 224, 224]
    evaluate.run([(tmp_path / "run", composed(small, words))], tmp_path / "eval")  # whose data.size is null
    assert len([*(tmp_path / "cache").glob("folder-*/store.json")]) == 1  # no other pixels were made
    assert "made [3, 224, 224]" not in json.dumps(json.loads((tmp_path / "eval" / "eval.json").read_text()))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.resize=100", r"data\.resize=100: expected data\.size, 224, to 2048 pixels of the shorter side"),
        ("data.interpolation=nearest", r"data\.interpolation=nearest \(text\): expected one of bicubic, bilinear"),
    ],
)
def test_mistakes_are_told(word, message, small, words, tmp_path):
    with pytest.raises(UserError, match=message):
        train.run(composed(small, [*words, word]), tmp_path / "run")
