"""From Hydra's configuration, as small() composes it, to what train.run and evaluate.run make of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from metalab.config.experiment import read_config
from metalab.config.instantiate import build
from metalab.core.interfaces import Backbone
from metalab.evaluation.setup import EvaluationSetup, build_evaluation_setup, load_net
from metalab.training.setup import TrainingSetup, build_training_setup


def training_setup(cfg: DictConfig, engine: Mapping[str, Any] | None = None) -> TrainingSetup:
    """Return what a training of this configuration is made of."""
    return build_training_setup(read_config(cfg), engine)


def evaluation_setup(folder: Path, cfg: DictConfig) -> EvaluationSetup:
    """Return what an evaluation of the run in a folder is made of."""
    return build_evaluation_setup(folder, read_config(cfg))


def net_in(cfg: DictConfig, saved: dict[str, Any]) -> nn.Module:
    """Return the net of a checkpoint with its weights."""
    config = read_config(cfg)
    return load_net(config, build(config.backbone, "backbone"), saved)


def backbone(node: Mapping[str, Any]) -> Backbone:
    """Return the backbone that a group names."""
    return build(node, "backbone")
