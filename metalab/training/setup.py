"""What a training run is made of, checked and built before there is a net."""

import logging
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from metalab.algorithms.build import AlgorithmSettings, build_algorithm
from metalab.algorithms.objectives.build import at_way, by_way, objective, training_loss
from metalab.algorithms.training_task import mini_batch_task, resolve_training_task
from metalab.config.experiment import ExperimentConfig
from metalab.config.image_preparation import resolve_preparation
from metalab.config.instantiate import build, parts_of, settings
from metalab.config.schema import EPISODES_AT_ONCE, Eval, Task, Train
from metalab.core.errors import UserError
from metalab.core.interfaces import Algorithm, Backbone, Engine, EpisodeSource, Loss, Objective, Split
from metalab.data.class_lists import SPLITS
from metalab.data.datasets.domains import load_split
from metalab.data.sampling.augment import Augment
from metalab.data.sampling.bootstrap import bootstrapped
from metalab.data.sampling.build import Source, episode_source
from metalab.data.sampling.class_families import most_classes
from metalab.data.sampling.class_order import Labels, relabelled, union
from metalab.data.sampling.episode_size import EpisodeSize, too_small
from metalab.data.sampling.gather import move_if_it_fits
from metalab.data.sampling.mini_batches import MiniBatches
from metalab.data.sampling.replay import ReplayedBatches, ReplayedEpisodes, remembered_images
from metalab.data.sampling.target_images import ALL
from metalab.data.sampling.variable_sampler import LEAST
from metalab.distributed.device import own_device
from metalab.engines.auto import AutoEngine, Workload, checkpoints, conv4_filters
from metalab.engines.build import select_engine
from metalab.engines.cuda_graph import CUDAGraphEngine
from metalab.engines.vectorized import Vectorized
from metalab.evaluation import transductive
from metalab.evaluation.objectives import measured_objective
from metalab.evaluation.protocols.build import evaluation_protocol
from metalab.regularizers import Hooks, ObjectiveContext, Penalized
from metalab.regularizers.build import build_regularizers
from metalab.training.compatibility import (
    check_compatibility,
    check_precision,
    check_replay,
    refuse_evaluations,
    takes_graphs,
    tell_random_body,
)
from metalab.training.optimizers import Clip, CyclicCosine, LRSchedule, cyclic
from metalab.training.samme import Boost
from metalab.training.teacher import LoadedTeacher, load_teacher

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
    whole: Split  # the training split before train.bootstrap drew from it
    teacher: LoadedTeacher | None = None  # of reg=distill
    boost: Boost | None = None  # what train.boost came to
    memory: Split | None = None  # what reg=replay draws from

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
        return evaluation_protocol(self.data["val"]).engine(copy(self.engine))

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

    def training(self, stream: str, tasks: int, part: slice = ALL) -> EpisodeSource:
        """Return training episodes; each stream draws others. UserError where the classes or images are too few.

        part: which of a step's episodes are made, where other processes make the others.
        """
        train, memory, replay = self.data["train"], self.memory, self.terms.replay
        if memory is None or replay is None:
            return self._drawn(train, tasks, stream, part=part)
        again = f"{stream}/replay"
        if self.algo.mini_batch is not None:
            old = remembered_images(self.algo.mini_batch, replay.share)
            return ReplayedBatches(
                self._drawn(train, tasks, stream, self.algo.mini_batch - old, part),
                self._drawn(memory, tasks, again, old, part),
            )
        return ReplayedEpisodes(self._drawn(train, 1, stream), self._drawn(memory, 1, again), tasks, replay.share, part)

    def _drawn(self, split: Split, tasks: int, stream: str, images: int | None = None, part: slice = ALL) -> Source:
        """Return mini-batches of so many images of a training split, or its episodes."""
        if self.algo.mini_batch is not None:
            count = images or self.algo.mini_batch
            return MiniBatches(split, count, tasks, self.seed, stream, self.device, self._augment(stream), part)
        t = self.task
        way, shot, query = t.train_way or t.way, t.train_shot or t.shot, t.train_query or t.query
        sized = replace(t, way=way, shot=shot, query=query, shots=None, label_noise=t.train_label_noise)
        return self._episodes(sized, split, tasks, stream, part)

    def validation(self) -> Source:
        """Return the episodes of every validation; UserError where the classes or images are too few."""
        tasks = min(self.eval.batch or EPISODES_AT_ONCE, self.train.val_episodes)
        return self._episodes(self.task, self.data["val"], tasks, "val")

    def _episodes(self, task: Task, split: Split, tasks: int, stream: str, part: slice = ALL) -> Source:
        return episode_source(task, split, tasks, self.seed, stream, self.device, self._augment(stream), part)

    def _augment(self, stream: str) -> Augment | None:
        """Return what is done to the images that are trained on; statistics and validation see them as they are."""
        return self.terms.augment if stream.partition("/")[0] == "train" else None

    def objective(self) -> Objective:
        """Return what a meta-step differentiates."""
        algo, bn = self.algo, self.train.bn or "batch"
        inner, outer = self.terms.inner(algo.loss), self.terms.outer(training_loss(algo.loss, self.train_algorithm))

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


def build_training_setup(
    config: ExperimentConfig, engine: Mapping[str, Any] | None = None, kept: Labels | None = None
) -> TrainingSetup:
    """Check every name, type and size of a configuration and build what needs no net, before any work is done.

    Args:
        config: what is asked for.
        engine: the node of the engine that a resumed run had taken; None: as the configuration says.
        kept: the classes of the classifier that this one goes on with, which stay in its head; None: there is none.

    Raises:
        UserError: for a part that cannot be built, data that is not there, or parts that do not go together.
    """
    refuse_evaluations(config)
    task, train, evaluation = config.task, config.train, config.eval
    device = own_device(config.device)
    optimizer, rate, clip = _outer(config.optim, train)
    # graphs may change in a resumed run, as no result does
    graphs = {key: value for key, value in config.engine.items() if key == "graphs" and key in (engine or {})}
    runs = build(config.engine if engine is None else {**engine, **graphs}, "engine")
    algo, train_algorithm = build_algorithm(config.algo, task.way, test=False)
    test_algo, test_algorithm = build_algorithm(config.algo, task.way, test=True)
    terms = build_regularizers(config.reg, algo.steps, algo)
    backbone = build(config.backbone, "backbone")
    config = resolve_preparation(config, backbone)
    whole, data = _training_data(config, algo, terms, kept)
    data = {name: on_device(split, device) for name, split in data.items()}
    task = _sized(task, algo, data["train"])
    protocol = evaluation_protocol(data["train"])
    test_algorithm = protocol.algorithm(test_algorithm, algo, data["train"], evaluation.bn or algo.bn)
    if protocol.has_support:
        _refuse_too_few(data["train"], task, algo, config.resume is not None)
    else:
        task, evaluation = protocol.sized(task, evaluation, data["val"])
        train = replace(train, val_episodes=evaluation.episodes)
    transductive.refuse_support_pass(test_algorithm, algo.name, evaluation.bn or algo.bn)
    if algo.mini_batch is None:
        transductive.refuse_support_pass(train_algorithm, algo.name, train.bn or "batch", "train.bn")
    train_algorithm = at_way(train_algorithm, task.train_way or task.way)
    teacher = None if terms.teacher is None else load_teacher(terms.teacher, data["train"], task, algo, device)
    if teacher is not None:
        terms = build_regularizers(config.reg, algo.steps, algo, teacher)
    check_compatibility(task, train, algo, terms, train_algorithm)
    tell_random_body(config, algo.name, train_algorithm, backbone)
    check_replay(terms, algo, data["train"])
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
        teacher=teacher,
        whole=whole,
    )
    return replace(made, engine=select_engine(runs, made.work()))


def _training_data(
    config: ExperimentConfig, algo: AlgorithmSettings, terms: Hooks, kept: Labels | None
) -> tuple[Split, dict[str, Split]]:
    """Return the training images as they lie, and train and val as this training sees them.

    Bagging draws from the training images, a target's are there where a regularizer reads them, and a classifier that
    goes on keeps its classes.
    """
    source, task, train = build(config.data, "data"), config.task, config.train
    data = {name: load_split(source, name, task.query_domain) for name in ("train", "val")}
    whole = data["train"]
    data["train"] = _with_target(_bootstrapped(whole, train, algo, config.seed), terms, task, algo)
    if kept is None or not whole.by_image:
        return whole, data
    data = {name: relabelled(split, union(kept, data["train"])) for name, split in data.items()}
    if train.boost and data["train"].ids != whole.ids:
        raise UserError(
            "train.boost weights the images of this data's own classes, and the classifier that this one goes on with "
            "has others, or in another order: leave out train.boost, or train.keep_classes=true (in train.phases a "
            "phase keeps those before it)"
        )
    return whole, data


def snapshot_steps(r: TrainingSetup) -> tuple[int, ...]:
    """Return how many meta-steps are finished where a snapshot is kept."""
    return r.rate.ends(r.train.steps) if isinstance(r.rate, CyclicCosine) else ()


def _bootstrapped(split: Split, train: Train, algo: AlgorithmSettings, seed: int) -> Split:
    """Return what train.bootstrap draws of the training split."""
    if not train.bootstrap:
        return split
    kind = split.protocol if train.bootstrap is True else train.bootstrap
    return bootstrapped(split, kind, algo.mini_batch is not None, seed)


def _with_target(train: Split, terms: Hooks, task: Task, algo: AlgorithmSettings) -> Split:
    """Return the training images, without the target's where nothing reads these; UserError where they are missing."""
    if not terms.target:
        return replace(train, target=None)
    if train.target is None:
        raise UserError(
            f"reg.{terms.target} learns from unlabelled images of a target domain, and this data has none: type "
            "data=domains data.source=... data.target=..., or leave it out of reg"
        )
    if not task.fixed and algo.mini_batch is None:
        raise UserError(f"reg.{terms.target} draws target images beside episodes of one size: type task=fixed")
    return train


def _refuse_too_few(train: Split, task: Task, algo: AlgorithmSettings, resumes: bool) -> None:
    """Raise UserError where a split has too few classes or images for its episodes; a run that goes on is told."""
    if trouble := too_small(train.class_sizes, _wanted(task, algo), train.families is not None):
        if not resumes:
            raise UserError(trouble)
        logger.warning(trouble)  # an older version let it begin, and its training can be ended


def _wanted(task: Task, algo: AlgorithmSettings) -> dict[str, EpisodeSize]:
    """Return the size of each split's episodes; training on mini-batches has none."""
    if not task.fixed:  # each class needs one image on either side, and the way is drawn
        return {split: EpisodeSize(LEAST, 1, 1) for split in SPLITS}
    beside = (task.unlabelled, task.distractors)
    test = EpisodeSize(task.way, max(task.shots or [task.shot]), task.query, *beside)
    way, shot, query = task.train_way or task.way, task.train_shot or task.shot, task.train_query or task.query
    train = {"train": EpisodeSize(way, shot, query, *beside)} if algo.mini_batch is None else {}
    return {**train, "val": test, "test": test}


def _with_graphs(engine: Any, device: torch.device, task: Task, algo: AlgorithmSettings, algorithm: Algorithm) -> Any:
    """Return what the engine's group names, with whether its meta-steps are CUDA graphs settled."""
    graphs = takes_graphs(engine, device, task, algo, algorithm)
    return replace(engine, graphs=graphs) if isinstance(engine, AutoEngine | Vectorized) else engine


def _outer(node: Mapping[str, Any], train: Train) -> tuple[Any, LRSchedule, Clip]:
    """Build the outer optimizer, its rate (in cycles for snapshots) and its clipping from the group optim."""
    rate, clip, rest = parts_of(node, LRSchedule, Clip)
    schedule = settings(LRSchedule, rate, "optim")
    if train.snapshots is not None:
        schedule = cyclic(schedule, train.snapshots)
        schedule.ends(train.steps)  # UserError for too few steps
    return build(rest, "optim"), schedule, settings(Clip, clip, "optim")


def _sized(task: Task, algo: AlgorithmSettings, train: Split) -> Task:
    """Return the task with the sizes of training that the training classes allow."""
    if algo.mini_batch is not None:
        return mini_batch_task(task, algo.name, len(train.ids))
    return resolve_training_task(
        task, algo, most_classes(train) - task.distractors, int(train.count.min()) - task.unlabelled
    )


def on_device(split: Split, device: torch.device) -> Split:
    """Move a split's images once, for all the episode sources that share them."""
    target = split.target and split.target._replace(images=move_if_it_fits(split.target.images, device))
    return replace(split, images=move_if_it_fits(split.images, device), target=target)
