"""What an evaluation of a run is made of: its net, rebuilt, the episodes, the attacks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from metalab import borrow, plain, protocol, schema
from metalab.allocator import keep_freed_memory
from metalab.assemble import Method, device, method, network, refuse_larger
from metalab.attacks import records as robust
from metalab.config import Eval, build, settings
from metalab.data.identity import fingerprint, known, known_images
from metalab.data.matched import matched
from metalab.data.sizes import EVALUATED
from metalab.engines.auto import Work, chosen, filters
from metalab.engines.each_image import EachImage
from metalab.errors import UserError
from metalab.interfaces import Algorithm, Engine, Episode, Objective, Split, TaskResult
from metalab.measure import outcome, outcomes
from metalab.models.layers import BatchStatNorm, Normalise
from metalab.progress import counted
from metalab.regularisation import regularisation
from metalab.regularisers import Terms
from metalab.sampling import Source, episode_source
from metalab.settle import settle
from metalab.task import Task


def rebuilt(cfg: DictConfig, saved: dict[str, Any]) -> nn.Module:
    """Return the net of a checkpoint with its weights."""
    channels, size, _ = saved["shape"]
    how, trained = method(cfg.algo, saved["train_way"], test=False)
    drop = regularisation(cfg.reg, how.steps).drop or nn.Sequential()
    refuse_larger(cfg.backbone, trained, drop, (channels, size), saved["net"])
    net = network(cfg.backbone, trained, drop, Normalise([0.0] * channels, [1.0] * channels), size)
    if borrow.fitted(net, how, saved):
        train = _trained_on(cfg, saved)
        borrow.measure_centre(net, matched(train, channels, size), cfg.eval.bn or how.bn)
    return net


def _trained_on(cfg: DictConfig, saved: dict[str, Any]) -> Split:
    """Return the run's own training split, whatever data it is tested on; UserError where it is not at hand."""
    node = dict(saved["config"]["data"])
    if node["_target_"] == cfg.data["_target_"]:  # it may have moved since
        node |= {key: cfg.data[key] for key in ("root", "cache") if key in cfg.data}
    needs = f"algo={cfg.algo.name} takes the mean feature of the images that the run was trained on"
    try:
        split = build(node, "data").load("train")
    except UserError as error:
        raise UserError(f"{needs}, which are not at hand: {error}") from error
    if fingerprint(split) != saved["data"]["train"]:
        raise UserError(f"{needs}, and there are others in their place now: give the data.root of the training")
    return split


def overlap(split: Split, trained: list[str], evaluation: Eval, folder: Path) -> list[str]:
    """Return what of the split the checkpoint was trained on; UserError where that is not allowed.

    These are classes, or, where the split's classes are those of the training (plain.check_run), images.
    """
    images = split.by_image and evaluation.split == "test"
    if images:
        shared = [file for file, seen in zip(split.files, known_images(split, trained), strict=False) if seen]
    else:
        shared = known(split, trained)
    if shared and not evaluation.allow_overlap:
        named = ", ".join(shared[:10]) + (f" and {len(shared) - 10} more" if len(shared) > 10 else "")
        what, of = ("images", len(split.images)) if images else ("classes", len(set(split.ids)))
        raise UserError(
            f"{folder} was trained on {len(shared)} of the {of} {what} of the {evaluation.split} split: {named}. "
            f"Their accuracy says nothing about new {what}; eval.allow_overlap=true goes on and stamps the result"
        )
    return shared


@dataclass(frozen=True)
class Trial:
    """What one evaluation is made of, checked and built."""

    folder: Path  # of the run
    cfg: DictConfig
    saved: dict[str, Any]  # its best checkpoint
    task: Task
    evaluation: Eval
    how: Method
    tested: Algorithm
    bn: str
    attacks: robust.Attacks
    terms: Terms
    net: nn.Module
    engine: Engine
    split: Split  # with images as the net takes them
    overlap: list[str]  # classes that were trained on

    @property
    def tasks(self) -> int:
        """Episodes that run together."""
        return min(self.evaluation.batch, self.evaluation.episodes)

    @property
    def counting(self) -> Engine:
        """The engine, which counts each image for itself where there are no episodes."""
        return EachImage(self.engine) if self.split.by_image else self.engine

    @property
    def normed(self) -> bool:
        """Whether the net has a batch norm, whose mode is then part of the result."""
        return any(isinstance(m, BatchStatNorm) for m in self.net.modules())

    def source(self, task: Task) -> Source:
        """Return the episodes of a task's size."""
        where = device(self.cfg.device)
        return episode_source(task, self.split, self.tasks, self.cfg.seed, EVALUATED[self.evaluation.split], where)

    def outcomes(self, objective: Objective, source: Source, what: str) -> Iterator[TaskResult]:
        """Run an objective on all episodes of a source, and show how many are done."""
        episodes = self.evaluation.episodes
        return counted(outcomes(self.counting, objective, self.net, source, episodes, self.bn), what, episodes)

    def outcome(self, objective: Objective, episodes: Episode) -> TaskResult:
        """Run an objective on a meta-batch."""
        return outcome(self.counting, objective, self.net, episodes, self.bn)


def prepared(folder: Path, cfg: DictConfig) -> Trial:
    """Check and build what an evaluation of a run is made of; UserError before any of it is measured."""
    settle(cfg)
    saved = schema.loaded(folder / "best.pt")
    task, evaluation = settings(Task, cfg.task, "task"), settings(Eval, cfg.eval, "eval")
    where = device(cfg.device)
    keep_freed_memory(where.type)
    split = build(cfg.data, "data").load(evaluation.split)
    task, evaluation = protocol.settled(task, evaluation, split)
    how, tested = method(cfg.algo, task.way, test=True)
    bn = evaluation.bn or how.bn
    attacks = robust.asked(cfg.attack, evaluation.eps)
    robust.refuse_transductive(attacks, bn)
    robust.refuse_boundary(attacks)
    if split.by_image:
        plain.check_run(folder, how.name, saved, split, attacks)
        tested = plain.classifier(how, split, bn)
    robust.refuse_random(attacks, tested, cfg.reg)
    built = build(cfg.engine, "engine")
    net = rebuilt(cfg, saved).to(where)
    shared = overlap(split, saved["classes"], evaluation, folder)
    channels, size, _ = saved["shape"]
    tasks, images = min(evaluation.batch, evaluation.episodes), task.way * (task.shot + task.query)
    return Trial(
        folder=folder,
        cfg=cfg,
        saved=saved,
        task=task,
        evaluation=evaluation,
        how=how,
        tested=tested,
        bn=bn,
        attacks=attacks,
        terms=regularisation(cfg.reg, how.steps),
        net=net,
        engine=chosen(built, Work(where.type, None, size, tasks, images, how.steps, filters(cfg.backbone))),
        split=matched(split, channels, size),
        overlap=shared,
    )
