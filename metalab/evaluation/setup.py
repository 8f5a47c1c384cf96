"""What an evaluation of a run is made of: its net, rebuilt, the episodes, the attacks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from metalab.algorithms.build import AlgorithmSettings, build_algorithm
from metalab.config.experiment import ExperimentConfig
from metalab.config.image_preparation import resolve_preparation
from metalab.config.instantiate import build
from metalab.config.schema import Eval, Task
from metalab.core.allocator import keep_freed_memory
from metalab.core.device import resolve_device
from metalab.core.errors import UserError
from metalab.core.interfaces import (
    Algorithm,
    Backbone,
    Engine,
    Episode,
    Objective,
    PretrainedBackbone,
    Split,
    TaskResult,
)
from metalab.data.identity.class_ids import fingerprint
from metalab.data.sampling.build import Source, episode_source
from metalab.data.sampling.episode_size import EVALUATED
from metalab.data.storage.resize import resize_split
from metalab.engines.auto import Workload, checkpoints, conv4_filters
from metalab.engines.build import select_engine
from metalab.engines.per_image import PerImageEngine
from metalab.evaluation import checkpoint_transfer, classification, data_protocol
from metalab.evaluation import robustness as robust
from metalab.evaluation.feature_store import embed_split, sees_features_alone
from metalab.evaluation.leakage import refuse_trained_on
from metalab.evaluation.measure import outcome, outcomes
from metalab.evaluation.untrained import refuse_classifier, settings_without_training, untrained_checkpoint
from metalab.models.build import build_net, image_shape, refuse_larger
from metalab.models.layers import Normalize, has_batch_norm
from metalab.models.meta_net import Net
from metalab.regularizers import Hooks
from metalab.regularizers.base import identity_loss
from metalab.regularizers.build import build_regularizers
from metalab.tracking import checkpoint_schema
from metalab.tracking.progress import counted


def load_net(config: ExperimentConfig, backbone: Backbone, saved: dict[str, Any]) -> Net:
    """Return the net of a checkpoint with its weights.

    Args:
        config: the settings that make the net.
        backbone: of them, built.
        saved: the checkpoint, as tracking.checkpoint_schema has checked it.

    Raises:
        UserError: where the checkpoint does not fit the settings.
    """
    channels, size, _ = saved["shape"]
    algo, train_algorithm = build_algorithm(config.algo, saved["train_way"], test=False)
    drop = build_regularizers(config.reg, algo.steps).drop or nn.Sequential()
    refuse_larger(backbone, train_algorithm, drop, (channels, size), saved["net"])
    net = build_net(backbone, train_algorithm, drop, Normalize([0.0] * channels, [1.0] * channels), size)
    if checkpoint_transfer.transfer_weights(net, algo, saved):
        train = _trained_on(config, saved)
        checkpoint_transfer.estimate_feature_mean(net, resize_split(train, channels, size), config.eval.bn or algo.bn)
    return net


def _trained_on(config: ExperimentConfig, saved: dict[str, Any]) -> Split:
    """Return the run's own training split, whatever data it is tested on; UserError where it is not at hand."""
    node = dict(saved["config"]["data"])
    if node["_target_"] == config.data["_target_"]:  # it may have moved since
        node |= {key: config.data[key] for key in ("root", "cache") if key in config.data}
    needs = f"algo={config.algo['name']} takes the mean feature of the images that the run was trained on"
    try:
        split = build(node, "data").load("train")
    except UserError as error:
        raise UserError(f"{needs}, which are not at hand: {error}") from error
    if fingerprint(split) != saved["data"]["train"]:
        raise UserError(f"{needs}, and there are others in their place now: give the data.root of the training")
    return split


@dataclass(frozen=True)
class EvaluationSetup:
    """What one evaluation is made of, checked and built."""

    folder: Path | None  # of the run; None: a pretrained backbone without one
    config: ExperimentConfig
    saved: dict[str, Any]  # its best checkpoint
    task: Task
    evaluation: Eval
    algo: AlgorithmSettings
    test_algorithm: Algorithm
    bn: str
    attacks: robust.Attacks
    terms: Hooks
    net: nn.Module
    normed: bool  # whether the net has a batch norm, whose mode is then part of the result
    engine: Engine
    split: Split  # with images as the net takes them, or their features
    images: Split  # the same with images
    overlap: list[str]  # classes that were trained on
    note: str = ""  # what a referee must know of the settings

    @property
    def tasks(self) -> int:
        """Episodes that run together."""
        return min(self.evaluation.batch, self.evaluation.episodes)

    @property
    def counting(self) -> Engine:
        """The engine, which counts each image for itself where there are no episodes."""
        return PerImageEngine(self.engine) if self.split.by_image else self.engine

    def source(self, task: Task) -> Source:
        """Return the episodes of a task's size."""
        return self._source(task, self.split)

    def image_source(self, task: Task) -> Source:
        """Return the same episodes with images, where what is measured are their features."""
        return self._source(task, self.images)

    def _source(self, task: Task, split: Split) -> Source:
        device = resolve_device(self.config.device)
        return episode_source(task, split, self.tasks, self.config.seed, EVALUATED[self.evaluation.split], device)

    def outcomes(self, objective: Objective, source: Source, what: str) -> Iterator[TaskResult]:
        """Run an objective on all episodes of a source, and show how many are done."""
        episodes = self.evaluation.episodes
        return counted(outcomes(self.counting, objective, self.net, source, episodes, self.bn), what, episodes)

    def outcome(self, objective: Objective, episodes: Episode) -> TaskResult:
        """Run an objective on a meta-batch."""
        return outcome(self.counting, objective, self.net, episodes, self.bn)


def build_evaluation_setup(folder: Path | None, config: ExperimentConfig) -> EvaluationSetup:
    """Check and build what an evaluation of a run is made of, before any of it is measured.

    Args:
        folder: of the run, with its best.pt; None: nothing was trained, the backbone has weights from elsewhere.
        config: the run's settings with what the command line changed.

    Raises:
        UserError: for a damaged checkpoint, parts that do not go together, and classes or images that were trained on.
    """
    saved = None if folder is None else checkpoint_schema.load_checked(folder / "best.pt")
    config, note = settings_without_training(config) if saved is None else (config, "")
    task, evaluation = config.task, config.eval
    device = resolve_device(config.device)
    keep_freed_memory(device.type)
    backbone = build(config.backbone, "backbone")
    config = resolve_preparation(config, backbone, saved)
    split = build(config.data, "data").load(evaluation.split)
    task, evaluation = data_protocol.apply_data_protocol(task, evaluation, split)
    algo, test_algorithm = build_algorithm(config.algo, task.way, test=True)
    if saved is None:
        refuse_classifier(split)
        saved = untrained_checkpoint(config, backbone, *image_shape(split))
    bn = evaluation.bn or algo.bn
    attacks = robust.build_attacks(config.attack, evaluation.eps)
    robust.refuse_transductive(attacks, bn)
    robust.refuse_boundary(attacks)
    if split.by_image:
        classification.check_run(str(folder), algo.name, saved, split, attacks)
        test_algorithm = classification.classifier(algo, split, bn)
    terms = build_regularizers(config.reg, algo.steps)
    robust.refuse_random(attacks, test_algorithm, terms)
    net = load_net(config, backbone, saved).to(device)
    shared = refuse_trained_on(split, saved["classes"], evaluation, folder)
    channels, size, _ = saved["shape"]
    images = split = resize_split(split, channels, size)
    passed = task.way * (task.shot + task.query)
    tasks, filters = min(evaluation.batch, evaluation.episodes), conv4_filters(backbone)
    work = Workload(device.type, None, size, tasks, passed, algo.steps, filters, checkpointing=checkpoints(backbone))
    engine = select_engine(build(config.engine, "engine"), work)
    normed = has_batch_norm(net)
    if (
        _wants_features(evaluation, backbone, evaluation.episodes * passed >= len(split.images))
        and images_stay_as_they_are(split, attacks, terms)
        and sees_features_alone(test_algorithm, net, bn)
    ):
        net, split = embed_split(net, split, config.data, device)
    return EvaluationSetup(
        folder=folder,
        config=config,
        saved=saved,
        task=task,
        evaluation=evaluation,
        algo=algo,
        test_algorithm=test_algorithm,
        bn=bn,
        attacks=attacks,
        terms=terms,
        net=net,
        normed=normed,
        engine=engine,
        split=split,
        images=images,
        overlap=shared,
        note=note,
    )


def _wants_features(evaluation: Eval, backbone: Backbone, pays: bool) -> bool:
    """Whether features are to stand in the place of images; pays: the episodes have as many images as the split."""
    pretrained = isinstance(backbone, PretrainedBackbone) and backbone.normalization() is not None
    return pretrained and pays if evaluation.embed is None else evaluation.embed


def images_stay_as_they_are(split: Split, attacks: robust.Attacks, terms: Hooks) -> bool:
    """Whether no image is turned, attacked or regularized on its way to the net."""
    turned = split.turns is not None or split.random_turns
    return not turned and not attacks.built and terms.inner is identity_loss
