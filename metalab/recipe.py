"""What a training run is made of, checked and built before there is a net."""

import logging
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig

from metalab import plain, protocol
from metalab.assemble import Method, by_way, device, measured_objective, method, objective, parts_of
from metalab.config import Eval, Train, build, settings
from metalab.data.augment import Augment
from metalab.data.batches import Batches
from metalab.data.gather import resident
from metalab.data.kin import most_classes
from metalab.data.sizes import Sizes, too_small
from metalab.data.sources import SPLITS
from metalab.data.variable import LEAST
from metalab.engines.auto import Auto, Work, chosen, filters
from metalab.engines.each_image import EachImage
from metalab.engines.graph import Graphed
from metalab.engines.vectorised import Vectorised
from metalab.errors import UserError
from metalab.fits import check_precision, check_together, refuse_evaluations, takes_graphs
from metalab.interfaces import Algorithm, Engine, Loss, Objective, Split
from metalab.optim import Clip, Rate
from metalab.regularisation import regularisation
from metalab.regularisers import Penalised, Setting, Terms
from metalab.sampling import Source, episode_source
from metalab.task import Task
from metalab.training_task import for_batches, resolved

logger = logging.getLogger("metalab")


@dataclass(frozen=True)
class Recipe:
    """The parts of a training run; `task` has the sizes of training filled in."""

    task: Task
    train: Train
    eval: Eval
    seed: int
    how: Method
    trained: Algorithm
    tested: Algorithm
    at_test: Method
    terms: Terms
    engine: Engine
    graphs_asked: bool  # typed, and no default
    optimiser: Any  # what cfg.optim names
    rate: Rate
    clip: Clip
    data: dict[str, Split]
    device: torch.device

    @property
    def bn(self) -> str:
        """The batch-norm statistics of validation."""
        return self.eval.bn or self.how.bn

    @property
    def stepping(self) -> Engine:
        """What runs the meta-steps: the engine, as CUDA graphs where it takes them."""
        graphs = isinstance(self.engine, Vectorised) and self.engine.graphs
        return Graphed(self.engine, self.graphs_asked) if graphs else self.engine

    @property
    def measuring(self) -> Engine:
        """What runs validation: an engine like the training's, and where the data splits images, by image.

        Its own: where validation does not fit the memory, training may.
        """
        own = copy(self.engine)
        return EachImage(own) if self.data["val"].by_image else own

    @property
    def meta_batch(self) -> int:
        """Episodes a meta-step."""
        one = not self.task.fixed and self.how.mini_batch is None
        return 1 if one else self.train.meta_batch or self.how.meta_batch

    def work(self, backbone: Mapping[str, Any]) -> Work:
        """Return what engine=auto goes by."""
        t = self.task
        images = (t.train_way or t.way) * ((t.train_shot or t.shot) + (t.train_query or t.query))
        size = self.data["train"].images.shape[-1]
        batch, steps = self.meta_batch, self.how.steps
        return Work(self.device.type, self.how.name, size, batch, images, steps, filters(backbone))

    def training(self, stream: str, tasks: int) -> Source:
        """Return training episodes; each stream draws others. UserError where the classes or images are too few."""
        if self.how.mini_batch is not None:
            data, images = self.data["train"], self.how.mini_batch
            return Batches(data, images, tasks, self.seed, stream, self.device, self._augment(stream))
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
        how, bn = self.how, self.train.bn or "batch"
        inner, outer = self.terms.inner(how.loss), self.terms.outer(how.loss)

        def made(algorithm: Algorithm, way: int) -> Objective:
            def make(loss: Loss) -> Objective:
                return objective(how.objective, algorithm, how.steps, inner, loss, bn)

            whole = self.terms.around(make, Setting(algorithm, how.steps, inner))(outer)
            return Penalised(whole, self.terms.penalty)

        if how.mini_batch is not None:  # the way of training is fixed, whatever the task's
            return made(self.trained, self.task.way)
        return by_way(self.task, self.trained, made)

    def measured(self) -> Objective:
        """Return what validation measures."""

        def make(algorithm: Algorithm, way: int) -> Objective:
            return measured_objective(self.at_test, algorithm, self.bn, way, self.terms)

        return by_way(self.task, self.tested, make)


def recipe(cfg: DictConfig, engine: Mapping[str, Any] | None = None) -> Recipe:
    """Check every name, type and size of cfg and build what needs no net; UserError before any work is done.

    engine: the node of the engine that a resumed run had taken; None: as cfg says."""
    refuse_evaluations(cfg)
    task, train = settings(Task, cfg.task, "task"), settings(Train, cfg.train, "train")
    evaluation = settings(Eval, cfg.eval, "eval")
    where = device(cfg.device)
    optimiser, rate, clip = _outer(cfg.optim)
    # graphs may change in a resumed run, as no result does
    graphs = {key: value for key, value in cfg.engine.items() if key == "graphs" and key in (engine or {})}
    runs = build(cfg.engine if engine is None else {**engine, **graphs}, "engine")
    how, _ = method(cfg.algo, task.way, test=False)
    at_test, tested = method(cfg.algo, task.way, test=True)
    terms = regularisation(cfg.reg, how.steps, how)
    source = build(cfg.data, "data")
    data = {name: on_device(source.load(name), where) for name in ("train", "val")}
    task = _sized(task, how, data["train"])
    if data["train"].by_image:
        tested = plain.classifier(how, data["train"], evaluation.bn or how.bn)
        task, evaluation = protocol.settled(task, evaluation, data["val"])
        train = replace(train, val_episodes=evaluation.episodes)
    elif trouble := too_small(data["train"].class_sizes, _wanted(task, how), data["train"].kin is not None):
        if cfg.resume is None:
            raise UserError(trouble)
        logger.warning(trouble)  # an older version let it begin, and its training can be ended
    how, trained = method(cfg.algo, task.train_way or task.way, test=False)
    check_together(task, train, how, terms, trained)
    graphs_asked = isinstance(runs, Auto | Vectorised) and runs.graphs is True
    runs = _with_graphs(runs, where, task, how)
    check_precision(runs, how)
    made = Recipe(
        task=task,
        train=train,
        eval=evaluation,
        seed=cfg.seed,
        how=how,
        trained=trained,
        tested=tested,
        at_test=at_test,
        terms=terms,
        engine=runs,
        graphs_asked=graphs_asked,
        optimiser=optimiser,
        rate=rate,
        clip=clip,
        data=data,
        device=where,
    )
    return replace(made, engine=chosen(runs, made.work(cfg.backbone)))


def _wanted(task: Task, how: Method) -> dict[str, Sizes]:
    """Return the size of each split's episodes; training on mini-batches has none."""
    if not task.fixed:  # each class needs one image on either side, and the way is drawn
        return {split: Sizes(LEAST, 1, 1) for split in SPLITS}
    beside = (task.unlabelled, task.distractors)
    tested = Sizes(task.way, task.shot, task.query, *beside)
    way, shot, query = task.train_way or task.way, task.train_shot or task.shot, task.train_query or task.query
    trained = {"train": Sizes(way, shot, query, *beside)} if how.mini_batch is None else {}
    return {**trained, "val": tested, "test": tested}


def _with_graphs(engine: Any, where: torch.device, task: Task, how: Method) -> Any:
    """Return what cfg.engine names, with whether its meta-steps are CUDA graphs settled."""
    graphs = takes_graphs(engine, where, task, how)
    return replace(engine, graphs=graphs) if isinstance(engine, Auto | Vectorised) else engine


def _outer(node: Mapping[str, Any]) -> tuple[Any, Rate, Clip]:
    """Build the outer optimiser, its rate and its clipping from cfg.optim."""
    rate, clip, rest = parts_of(node, Rate, Clip)
    return build(rest, "optim"), settings(Rate, rate, "optim"), settings(Clip, clip, "optim")


def _sized(task: Task, how: Method, train: Split) -> Task:
    """Return the task with the sizes of training that the training classes allow."""
    if how.mini_batch is not None:
        return for_batches(task, how.name, len(train.ids))
    return resolved(task, how, most_classes(train) - task.distractors, int(train.count.min()) - task.unlabelled)


def on_device(split: Split, where: torch.device) -> Split:
    """Move a split's images once, for all the episode sources that share them."""
    return replace(split, images=resident(split.images, where))
