"""run=null: a pretrained backbone and a method that needs no training, as if they were a run's checkpoint."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalab.algorithms.build import build_algorithm
from metalab.config.experiment import ExperimentConfig
from metalab.core.errors import UserError
from metalab.core.interfaces import Backbone, algorithm_traits
from metalab.models.build import build_net, load_pretrained, weights_note
from metalab.models.layers import Normalize

logger = logging.getLogger("metalab")
WITHOUT = (
    "protonet, simpleshot, matching, baseline, baselinepp, finetune, feature_extraction, r2d2, metaoptnet, pmf, "
    "tip_adapter or clip_lora, or one that infers the queries together, as algo=tim"
)


def settings_without_training(config: ExperimentConfig) -> tuple[ExperimentConfig, str]:
    """Return the settings with which the algorithm needs no training, and what of them differs, in words.

    Raises:
        UserError: for an algorithm that needs a training whatever its settings.
    """
    settings, algorithm = build_algorithm(config.algo, config.task.way, test=True)
    instead = algorithm_traits(algorithm).without_training
    if instead is None:
        raise UserError(
            f"run=null trains nothing, and algo={settings.name} as it is set learns parts of its own in training, or "
            f"needs the classes that it saw: take one that needs none, algo={WITHOUT}, or train it: metalab train "
            f"algo={settings.name}"
        )
    differs = [f"algo.{key}={value} in the place of {config.algo[key]}" for key, value in instead.items()]
    note = f"{', '.join(differs)}: nothing was trained" if differs else ""
    if note:
        logger.info(note)
    algo = {**config.algo, **instead}
    return replace(config, algo=algo, whole={**config.whole, "algo": algo}), note


def untrained_checkpoint(config: ExperimentConfig, backbone: Backbone, channels: int, size: int) -> dict[str, Any]:
    """Return what the checkpoint of a run would hold that had trained for 0 steps from the backbone's weights.

    Args:
        config: the settings, as settings_without_training returns them.
        backbone: of them, built.
        channels: of the images.
        size: their side, in pixels.

    Raises:
        UserError: for a backbone without weights, or with weights that cannot be had.
    """
    _, algorithm = build_algorithm(config.algo, config.task.way, test=True)
    torch.manual_seed(config.seed)  # of heads, and of what LoRA adds
    net = build_net(backbone, algorithm, nn.Sequential(), Normalize([0.0] * channels, [1.0] * channels), size)
    before = {name: tensor.clone() for name, tensor in net.body.state_dict().items()}
    seen = load_pretrained(backbone, net)
    after = net.body.state_dict()
    if before and all(before[name].equal(after[name]) for name in before):
        raise UserError(
            "run=null measures a pretrained backbone, and this one has random weights: type backbone=torchvision "
            "backbone.name=mobilenet_v2 backbone.weights=DEFAULT (or a file), or give a trained run, as run=latest"
        )
    return {
        "net": net.state_dict(),
        "state": {"step": 0},
        "classes": sorted(seen),
        "labels": [],
        "label_names": [],
        "config": config.whole,
        "train_way": config.task.way,
        "shape": [channels, size, size],
        "data": {"note": "", "train": "", "val": "", "weights": weights_note(backbone)},
    }


def backbone_words(config: ExperimentConfig, folders: bool = True) -> str:
    """Return in words which net is measured where there was no training; folders: with that of a file of weights."""
    node = config.backbone
    kind = str(node["_target_"]).rpartition(".")[2].lower()
    weights = str(node.get("weights") or "")
    weights = weights if folders else Path(weights).name
    return " ".join(filter(None, [kind, node.get("name"), weights and f"with {weights}"]))
