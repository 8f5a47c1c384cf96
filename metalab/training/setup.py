"""What a training run is made of, checked and built before there is a net."""

import logging
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from metalab.algorithms.build import AlgorithmSettings, build_algorithm
from metalab.algorithms.objectives.build import at_way, by_way, objective
from metalab.algorithms.training_task import mini_batch_task, resolve_training_task
from metalab.config.experiment import ExperimentConfig
from metalab.config.image_preparation import resolve_preparation
from metalab.config.instantiate import build, parts_of, settings
from metalab.config.schema import Eval, Task, Train
from metalab.core.device import resolve_device
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Backbone, Engine, Loss, Objective, Split
from metalab.data.class_lists import SPLITS
from metalab.data.sampling.augment import Augment
from metalab.data.sampling.build import Source, episode_source
from metalab.data.sampling.class_families import most_classes
from metalab.data.sampling.episode_size import EpisodeSize, too_small
from metalab.data.sampling.gather import move_if_it_fits
from metalab.data.sampling.mini_batches import MiniBatches
from metalab.data.sampling.variable_sampler import LEAST
from metalab.engines.auto import AutoEngine, Workload, checkpoints, conv4_filters
from metalab.engines.build import select_engine
from metalab.engines.cuda_graph import CUDAGraphEngine
from metalab.engines.per_image import PerImageEngine
from metalab.engines.vectorized import Vectorized
from metalab.evaluation import classification, data_protocol
from metalab.evaluation.objectives import measured_objective
from metalab.regularizers import Hooks, ObjectiveContext, Penalized
from metalab.regularizers.build import build_regularizers
from metalab.training.compatibility import check_compatibility, check_precision, refuse_evaluations, takes_graphs
from metalab.training.optimizers import Clip, LRSchedule

logger = logging.getLogger("metalab")


@dataclass(frozen=True)
class TrainingSetup:
    """The parts of a training run; `task` has the sizes of training filled in, `config` those of the images."""

    config: ExperimentConfig
    task: Task
    train: Train
    eval: Eval
    seed: int
    algo: AlgorithmSettings
    train_algorithm: Algorithm
    test_algorithm: Algorithm
    test_algo: AlgorithmSettings
    terms: Hooks
    backbone: Backbone
    engine: Engine
    graphs_asked: bool  # typed, and no default
    optimizer: Any  # what the group optim names
    rate: LRSchedule
    clip: Clip
    data: dict[str, Split]
    device: torch.device

    @property
    def bn(self) -> str:
        """The batch-norm statistics of validation."""
        return self.eval.bn or self.algo.bn

    @property
    def stepping(self) -> Engine:
        """What runs the meta-steps: the engine, as CUDA graphs where it takes them."""
        graphs = isinstance(self.engine, Vectorized) and self.engine.graphs
        return CUDAGraphEngine(self.engine, self.graphs_asked) if graphs else self.engine

    @property
    def measuring(self) -> Engine:
        """What runs validation: an engine like the training's, and where the data splits images, by image.

        Its own: where validation does not fit the memory, training may.
        """
        own = copy(self.engine)
        return PerImageEngine(own) if self.data["val"].by_image else own

    @property
    def meta_batch(self) -> int:
        """Episodes a meta-step."""
        one = not self.task.fixed and self.algo.mini_batch is None
        return 1 if one else self.train.meta_batch or self.algo.meta_batch

    def work(self) -> Workload:
        """Return what engine=auto goes by."""
        t = self.task
        images = (t.train_way or t.way) * ((t.train_shot or t.shot) + (t.train_query or t.query))
        size = self.data["train"].images.shape[-1]
        batch, steps = self.meta_batch, self.algo.steps
        filters, again = conv4_filters(self.backbone), checkpoints(self.backbone)
        kind, name = self.device.type, self.algo.name
        return Workload(kind, name, size, batch, images, steps, filters, checkpointing=again)

    def training(self, stream: str, tasks: int) -> Source:
        """Return training episodes; each stream draws others. UserError where the classes or images are too few."""
        if self.algo.mini_batch is not None:
            data, images = self.data["train"], self.algo.mini_batch
            return MiniBatches(data, images, tasks, self.seed, stream, self.device, self._augment(stream))
        t = self.task
        way, shot, query = t.train_way or t.way, t.train_shot or t.shot, t.train_query or t.query
        return self._episodes("train", way, shot, query, tasks, stream)

    def validation(self) -> Source:
        """Return the episodes of every validation; UserError where the classes or images are too few."""
        t, tasks = self.task, min(self.eval.batch, self.train.val_episodes)
        return self._episodes("val", t.way, t.shot, t.query, tasks, "val")

    def _episodes(self, split: str, way: int, shot: int, query: int, tasks: int, stream: str) -> Source:
        sized = replace(self.task, way=way, shot=shot, query=query)
        return episode_source(sized, self.data[split], tasks, self.seed, stream, self.device, self._augment(stream))

    def _augment(self, stream: str) -> Augment | None:
        """Return what is done to the images that are trained on; statistics and validation see them as they are."""
        return self.terms.augment if stream == "train" else None

    def objective(self) -> Objective:
        """Return what a meta-step differentiates."""
        algo, bn = self.algo, self.train.bn or "batch"
        inner, outer = self.terms.inner(algo.loss), self.terms.outer(algo.loss)

        def made(algorithm: Algorithm, way: int) -> Objective:
            def make(loss: Loss) -> Objective:
                return objective(algo.objective, algorithm, algo.steps, inner, loss, bn)

            whole = self.terms.wrap_objective(make, ObjectiveContext(algorithm, algo.steps, inner))(outer)
            return Penalized(whole, self.terms.penalty)

        if algo.mini_batch is not None:  # the way of training is fixed, whatever the task's
            return made(self.train_algorithm, self.task.way)
        return by_way(self.task, self.train_algorithm, made)

    def measured(self) -> Objective:
        """Return what validation measures."""

        def make(algorithm: Algorithm, way: int) -> Objective:
            return measured_objective(self.test_algo, algorithm, self.bn, way, self.terms)

        return by_way(self.task, self.test_algorithm, make)


def build_training_setup(config: ExperimentConfig, engine: Mapping[str, Any] | None = None) -> TrainingSetup:
    """Check every name, type and size of a configuration and build what needs no net, before any work is done.

    Args:
        config: what is asked for.
        engine: the node of the engine that a resumed run had taken; None: as the configuration says.

    Raises:
        UserError: for a part that cannot be built, data that is not there, or parts that do not go together.
    """
    refuse_evaluations(config)
    task, train, evaluation = config.task, config.train, config.eval
    device = resolve_device(config.device)
    optimizer, rate, clip = _outer(config.optim)
    # graphs may change in a resumed run, as no result does
    graphs = {key: value for key, value in config.engine.items() if key == "graphs" and key in (engine or {})}
    runs = build(config.engine if engine is None else {**engine, **graphs}, "engine")
    algo, train_algorithm = build_algorithm(config.algo, task.way, test=False)
    test_algo, test_algorithm = build_algorithm(config.algo, task.way, test=True)
    terms = build_regularizers(config.reg, algo.steps, algo)
    backbone = build(config.backbone, "backbone")
    config = resolve_preparation(config, backbone)
    source = build(config.data, "data")
    data = {name: on_device(source.load(name), device) for name in ("train", "val")}
    task = _sized(task, algo, data["train"])
    if data["train"].by_image:
        test_algorithm = classification.classifier(algo, data["train"], evaluation.bn or algo.bn)
        task, evaluation = data_protocol.apply_data_protocol(task, evaluation, data["val"])
        train = replace(train, val_episodes=evaluation.episodes)
    elif trouble := too_small(data["train"].class_sizes, _wanted(task, algo), data["train"].families is not None):
        if config.resume is None:
            raise UserError(trouble)
        logger.warning(trouble)  # an older version let it begin, and its training can be ended
    train_algorithm = at_way(train_algorithm, task.train_way or task.way)
    check_compatibility(task, train, algo, terms, train_algorithm)
    graphs_asked = isinstance(runs, AutoEngine | Vectorized) and runs.graphs is True
    runs = _with_graphs(runs, device, task, algo, train_algorithm)
    check_precision(runs, algo, train_algorithm)
    made = TrainingSetup(
        config=config,
        task=task,
        train=train,
        eval=evaluation,
        seed=config.seed,
        algo=algo,
        train_algorithm=train_algorithm,
        test_algorithm=test_algorithm,
        test_algo=test_algo,
        terms=terms,
        backbone=backbone,
        engine=runs,
        graphs_asked=graphs_asked,
        optimizer=optimizer,
        rate=rate,
        clip=clip,
        data=data,
        device=device,
    )
    return replace(made, engine=select_engine(runs, made.work()))


def _wanted(task: Task, algo: AlgorithmSettings) -> dict[str, EpisodeSize]:
    """Return the size of each split's episodes; training on mini-batches has none."""
    if not task.fixed:  # each class needs one image on either side, and the way is drawn
        return {split: EpisodeSize(LEAST, 1, 1) for split in SPLITS}
    beside = (task.unlabelled, task.distractors)
    test = EpisodeSize(task.way, task.shot, task.query, *beside)
    way, shot, query = task.train_way or task.way, task.train_shot or task.shot, task.train_query or task.query
    train = {"train": EpisodeSize(way, shot, query, *beside)} if algo.mini_batch is None else {}
    return {**train, "val": test, "test": test}


def _with_graphs(engine: Any, device: torch.device, task: Task, algo: AlgorithmSettings, algorithm: Algorithm) -> Any:
    """Return what the engine's group names, with whether its meta-steps are CUDA graphs settled."""
    graphs = takes_graphs(engine, device, task, algo, algorithm)
    return replace(engine, graphs=graphs) if isinstance(engine, AutoEngine | Vectorized) else engine


def _outer(node: Mapping[str, Any]) -> tuple[Any, LRSchedule, Clip]:
    """Build the outer optimizer, its rate and its clipping from the group optim."""
    rate, clip, rest = parts_of(node, LRSchedule, Clip)
    return build(rest, "optim"), settings(LRSchedule, rate, "optim"), settings(Clip, clip, "optim")


def _sized(task: Task, algo: AlgorithmSettings, train: Split) -> Task:
    """Return the task with the sizes of training that the training classes allow."""
    if algo.mini_batch is not None:
        return mini_batch_task(task, algo.name, len(train.ids))
    return resolve_training_task(
        task, algo, most_classes(train) - task.distractors, int(train.count.min()) - task.unlabelled
    )


def on_device(split: Split, device: torch.device) -> Split:
    """Move a split's images once, for all the episode sources that share them."""
    return replace(split, images=move_if_it_fits(split.images, device))
