"""What an evaluation of a run is made of: its net, rebuilt, the episodes, the attacks."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from metalab.algorithms.build import AlgorithmSettings, build_algorithm
from metalab.config.experiment import ExperimentConfig
from metalab.config.image_preparation import resolve_preparation
from metalab.config.instantiate import build
from metalab.config.schema import EPISODES_AT_ONCE, Eval, Task
from metalab.core.allocator import keep_freed_memory
from metalab.core.device import resolve_device
from metalab.core.errors import UserError
from metalab.core.interfaces import (
    Algorithm,
    Backbone,
    Data,
    Engine,
    Episode,
    EpisodeSource,
    Objective,
    PretrainedBackbone,
    Split,
    TaskResult,
    UnlabelledImages,
)
from metalab.data.corruptions.build import check_corruptions
from metalab.data.datasets.domains import Domains, load_split
from metalab.data.identity.class_ids import fingerprint
from metalab.data.sampling.build import Source, episode_source
from metalab.data.sampling.episode_size import EVALUATED
from metalab.data.storage.resize import resize_split
from metalab.engines.auto import Workload, checkpoints, conv4_filters
from metalab.engines.build import select_engine
from metalab.evaluation import checkpoint_transfer, transductive
from metalab.evaluation import robustness as robust
from metalab.evaluation.all_way import protocol as all_way
from metalab.evaluation.all_way.image_splits import in_folds, with_training_support
from metalab.evaluation.feature_store import embed_split, sees_features_alone
from metalab.evaluation.leakage import refuse_trained_on
from metalab.evaluation.measure import outcome, outcomes
from metalab.evaluation.protocols.base import EvaluationProtocol
from metalab.evaluation.protocols.build import evaluation_protocol
from metalab.evaluation.transfer import target_adaptation
from metalab.evaluation.untrained import settings_without_training, untrained_checkpoint
from metalab.models.build import build_net, image_shape, refuse_larger
from metalab.models.layers import Normalize, has_batch_norm
from metalab.models.meta_net import Net
from metalab.models.text_classifier import read_names
from metalab.regularizers import Hooks
from metalab.regularizers.base import identity_loss
from metalab.regularizers.build import build_regularizers, refuse_other_loss
from metalab.tracking import checkpoint_schema
from metalab.tracking.progress import counted

FEATURES_AT_ONCE = 64  # episodes of stored features: an operation on them costs little more than its call


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
    terms = build_regularizers(config.reg, algo.steps)
    drop, more = terms.drop or nn.Sequential(), terms.kept_parts
    refuse_larger(backbone, train_algorithm, drop, (channels, size), saved["net"], more)
    net = build_net(backbone, train_algorithm, drop, Normalize([0.0] * channels, [1.0] * channels), size, more)
    if checkpoint_transfer.transfer_weights(net, algo, saved):
        train = _trained_on(config, saved)
        bn = "running" if target_adaptation.asked_for(config.eval) else config.eval.bn or algo.bn
        checkpoint_transfer.estimate_feature_mean(net, resize_split(train, channels, size), bn)
    return net


def measure_statistics(net: nn.Module, config: ExperimentConfig, saved: dict[str, Any], bn: str) -> None:
    """Measure what an algorithm needs to know of each training class, as the net is now; nothing where it needs none.

    Raises:
        UserError: where the training images are not at hand, or eval.bn would make other features of the test's.
    """
    if (base := checkpoint_transfer.base_statistics(net)) is None:
        return
    if bn != "running" and has_batch_norm(net):
        raise UserError(
            f"eval.bn={bn}: algo={config.algo['name']} compares features with those of the training classes, which are "
            "of the stored batch-norm statistics: type eval.bn=running"
        )
    channels, size, _ = saved["shape"]
    train = resize_split(_trained_on(config, saved), channels, size)
    checkpoint_transfer.measure_base_statistics(net, base, train)


def _trained_on(config: ExperimentConfig, saved: dict[str, Any]) -> Split:
    """Return the run's own training split, whatever data it is tested on; UserError where it is not at hand."""
    own, domain = saved["config"]["data"], saved["config"]["task"].get("query_domain")
    needs = f"algo={config.algo['name']} takes feature statistics of the images that the run was trained on"
    moved = where_it_lies(own, config.data)
    for node in [own, *([moved] if moved != own else [])]:
        try:
            split = load_split(build(node, "data"), "train", domain)
        except UserError as error:
            why = f"which are not at hand: {error}"
            continue
        if fingerprint(split) == saved["data"]["train"]:
            return split
        why = "and there are others in their place now: give the data.root of the training"
    raise UserError(f"{needs}, {why}")


def where_it_lies(node: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """Return a run's settings of data with the folders that an evaluation gives, as the images may have moved since.

    node: the run's. here: the evaluation's, whose folders are taken where they are of the same data set and domains.
    """
    if node["_target_"] != here["_target_"]:
        return dict(node)
    if "source" in node and (node["root"] is None) != (here["root"] is None):  # domains of one folder, and data sets
        return dict(node)
    same = [key for key in ("source", "target") if node.get(key) == here.get(key)]
    moved = ("root", "cache", "labels", *(f"{key}_root" for key in same))
    return node | {key: here[key] for key in moved if key in here}


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
    trained: nn.Module  # the net before it was adapted to a target domain
    normed: bool  # whether the net has a batch norm, whose mode is then part of the result
    engine: Engine
    protocol: EvaluationProtocol
    split: Split  # with images as the net takes them, or their features
    images: Split  # the same with images
    overlap: list[str]  # classes that were trained on
    data: Data  # whose split it is
    note: str = ""  # what a referee must know of the settings
    adapted: str = ""  # how the net was adapted to a target domain before it was measured, in words
    checkpoint: str = "best.pt"  # its file in the folder

    @property
    def tasks(self) -> int:
        """Episodes that run together."""
        return min(self.evaluation.batch or EPISODES_AT_ONCE, self.evaluation.episodes)

    @property
    def counting(self) -> Engine:
        """The engine, which counts by episodes or by images."""
        return self.protocol.engine(self.engine)

    def source(self, task: Task) -> Source:
        """Return the episodes of a task's size."""
        return self.source_of(task, self.split)

    def image_source(self, task: Task) -> Source:
        """Return the same episodes with images, where what is measured are their features."""
        return self.source_of(task, self.images)

    def source_of(self, task: Task, split: Split) -> Source:
        """Return the episodes of a task's size of another split, drawn as these are."""
        device = resolve_device(self.config.device)
        return episode_source(task, split, self.tasks, self.config.seed, EVALUATED[self.evaluation.split], device)

    def outcomes(self, objective: Objective, source: EpisodeSource, what: str) -> Iterator[TaskResult]:
        """Run an objective on all episodes of a source, and show how many are done."""
        episodes = self.evaluation.episodes
        return counted(outcomes(self.counting, objective, self.net, source, episodes, self.bn), what, episodes)

    def outcome(self, objective: Objective, episodes: Episode) -> TaskResult:
        """Run an objective on a meta-batch."""
        return outcome(self.counting, objective, self.net, episodes, self.bn)


def build_evaluation_setup(
    folder: Path | None, config: ExperimentConfig, checkpoint: str = "best.pt"
) -> EvaluationSetup:
    """Check and build what an evaluation of a run is made of, before any of it is measured.

    Args:
        folder: of the run, with its best.pt; None: nothing was trained, the backbone has weights from elsewhere.
        config: the run's settings with what the command line changed.
        checkpoint: its file in the folder.

    Raises:
        UserError: for a damaged checkpoint, parts that do not go together, and classes or images that were trained on.
    """
    saved = None if folder is None else checkpoint_schema.load_checked(folder / checkpoint)
    config, note = settings_without_training(config) if saved is None else (config, "")
    task, evaluation = config.task, config.eval
    check_corruptions(evaluation, config.attack, config.data.get("protocol") == "images")
    device = resolve_device(config.device)
    keep_freed_memory(device.type)
    backbone = build(config.backbone, "backbone")
    config = resolve_preparation(config, backbone, saved)
    data = build(config.data, "data")
    task, split = _tested(data, task, evaluation)
    protocol = evaluation_protocol(split)
    split = protocol.as_labelled(split, saved)
    task, evaluation = protocol.sized(task, evaluation, split)
    algo, test_algorithm = build_algorithm(config.algo, task.way, test=True)
    if saved is None:
        protocol.refuse_untrained(split)
        saved = untrained_checkpoint(config, backbone, *image_shape(split))
    adapts = target_adaptation.asked_for(evaluation)
    bn = "running" if adapts else evaluation.bn or algo.bn
    target = target_adaptation.target_images(data, adapts) if adapts else None
    attacks = robust.build_attacks(config.attack, evaluation.eps)
    robust.refuse_transductive(attacks, bn)
    robust.refuse_boundary(attacks)
    protocol.check_run(folder, algo.name, saved, split, attacks)
    test_algorithm = protocol.algorithm(test_algorithm, algo, split, bn)
    all_way.refuse_evaluation(task, data, attacks, evaluation)
    transductive.refuse_evaluation(test_algorithm, algo.name, bn, attacks, evaluation.unknown)
    terms = build_regularizers(config.reg, algo.steps)
    refuse_other_loss(config.reg, algo)
    robust.refuse_random(attacks, test_algorithm, terms)
    net = load_net(config, backbone, saved).to(device)
    named = task.draws is not None
    unread = read_names(net, backbone if named else None, split.names if named else None)
    note = "; ".join(filter(None, [note, unread]))
    known_classes = split.support is not None or split.fold is not None  # of which images alone may have been seen
    tested = replace(split, by_image=True) if known_classes else split
    shared = refuse_trained_on(tested, saved["classes"], evaluation, folder)
    channels, size, _ = saved["shape"]
    images = split = resize_split(split, channels, size)
    trained, adapted = _adapted(net, target, evaluation, split, protocol.has_support, config.seed)
    if protocol.has_support:
        for each in [net, *([trained] if trained is not net else [])]:
            measure_statistics(each, config, saved, bn)
    normed = has_batch_norm(net)
    embedded = (
        not (adapted or isinstance(data, Domains))  # more images are measured than the split's
        and _wants_features(evaluation, backbone, evaluation.episodes * _images(task) >= len(split.images))
        and evaluation.corrupt is None
        and images_stay_as_they_are(split, attacks, terms)
        and sees_features_alone(test_algorithm, net, bn)
    )
    if embedded:
        net, split = embed_split(net, split, config.data, device)
    at_once = evaluation.batch or (FEATURES_AT_ONCE if embedded else EPISODES_AT_ONCE)
    evaluation = replace(evaluation, batch=at_once)
    work = Workload(
        device.type,
        None,
        size,
        min(at_once, evaluation.episodes),
        _images(task),
        algo.steps,
        conv4_filters(backbone),
        checkpointing=checkpoints(backbone),
        features=embedded and protocol.has_support and task.draws is None,
    )
    engine = select_engine(build(config.engine, "engine"), work)
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
        trained=trained,
        normed=normed,
        engine=engine if task.draws is None else all_way.one_by_one(engine),
        protocol=protocol,
        split=split,
        images=images,
        overlap=shared,
        data=data,
        note=note,
        adapted=adapted,
        checkpoint=checkpoint,
    )


def _tested(data: Data, task: Task, evaluation: Eval) -> tuple[Task, Split]:
    """Return the task and the split that is tested; of eval.folds all images, a draw a fold."""
    if evaluation.folds is not None:
        split = in_folds(data, evaluation.folds, task, evaluation)
        return replace(task, draws=evaluation.folds), split
    split = load_split(data, evaluation.split, task.query_domain)
    return task, with_training_support(split, data, task, evaluation)


def _images(task: Task) -> int:
    """Return how many images an episode has."""
    return task.labelled + task.way * task.query


def _adapted(
    net: Net, target: UnlabelledImages | None, evaluation: Eval, split: Split, has_support: bool, seed: int
) -> tuple[nn.Module, str]:
    """Adapt the net to a target's images, if any; return it as it was trained, and what was done, in words."""
    if target is None:
        return net, ""
    trained = deepcopy(net)
    channels, size, _ = split.images.shape[1:]
    target = target_adaptation.resized(target, channels, size)
    return trained, target_adaptation.adapt_to_target(net.eval(), target, evaluation, has_support, seed)


def _wants_features(evaluation: Eval, backbone: Backbone, pays: bool) -> bool:
    """Whether features are to stand in the place of images; pays: the episodes have as many images as the split."""
    pretrained = isinstance(backbone, PretrainedBackbone) and backbone.normalization() is not None
    return pretrained and pays if evaluation.embed is None else evaluation.embed


def images_stay_as_they_are(split: Split, attacks: robust.Attacks, terms: Hooks) -> bool:
    """Whether no image is turned, attacked or regularized on its way to the net."""
    turned = split.turns is not None or split.random_turns
    return not turned and not attacks.built and terms.inner is identity_loss
