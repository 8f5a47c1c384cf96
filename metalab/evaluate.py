"""`metalab eval`: rebuild a run from its best checkpoint and measure it on many episodes of unseen classes."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from metalab import assemble, borrow, checkpoint, plain, protocol, report
from metalab.assemble import by_way, device, measured_objective, method, network, robust_objective
from metalab.attacks import records as robust
from metalab.besides import Shares, besides, shape
from metalab.config import Eval, build, settings
from metalab.data.identity import known
from metalab.data.matched import matched
from metalab.engines.auto import Work, chosen
from metalab.engines.each_image import EachImage
from metalab.engines.learn2learn import Learn2Learn
from metalab.errors import UserError
from metalab.interfaces import Engine, Episode, EpisodeSource, Objective, Split, TaskResult
from metalab.models.layers import BatchStatNorm, Normalise, running_statistics
from metalab.recipe import settle
from metalab.regularisation import regularisation
from metalab.sampling import episode_source
from metalab.task import Task

logger = logging.getLogger("metalab")


def run(runs: list[tuple[Path, DictConfig]], out: Path) -> float:
    """Evaluate each run as its config says; write the report to out and return the mean accuracy, a fraction."""
    results = [_one(folder, cfg) for folder, cfg in runs]
    report.write(out, [r for r, _ in results], [a for _, a in results])
    return float(np.mean([a.mean() for _, a in results]))


def measure(
    engine: Engine, objective: Objective, net: nn.Module, source: EpisodeSource, episodes: int, bn: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the accuracy and the loss of each of the first episodes of a source, float64 [episodes]."""
    accuracy: list[torch.Tensor] = []
    loss: list[torch.Tensor] = []
    step = 0
    while sum(map(len, accuracy)) < episodes:
        result = outcome(engine, objective, net, source(step), bn)
        accuracy.append(result.correct.double().mean(1))
        loss.append(result.scalars["loss"].double())
        step += 1
    joined = torch.stack([torch.cat(accuracy)[:episodes], torch.cat(loss)[:episodes]]).cpu().numpy()
    return joined[0], joined[1]


def outcome(engine: Engine, objective: Objective, net: nn.Module, episodes: Episode, bn: str) -> TaskResult:
    """Run an objective on a meta-batch as validation and test do: nothing dropped, the stored statistics if running."""
    net.eval()
    with running_statistics() if bn == "running" else nullcontext():
        return engine.evaluate(objective, net, episodes)


def rebuilt(cfg: DictConfig, saved: dict[str, Any]) -> nn.Module:
    """Return the net of a checkpoint with its weights."""
    channels, size, _ = saved["shape"]
    how, trained = method(cfg.algo, saved["train_way"], test=False)
    drop = regularisation(cfg.reg, how.steps).drop or nn.Sequential()
    net = network(cfg.backbone, trained, drop, Normalise([0.0] * channels, [1.0] * channels), size)
    if borrow.fitted(net, how, saved):
        train = build(cfg.data, "data").load("train")
        borrow.measure_centre(net, matched(train, channels, size), cfg.eval.bn or how.bn)
    return net


def overlap(split: Split, trained: list[str], evaluation: Eval, folder: Path) -> list[str]:
    """Return the classes of the split that the checkpoint was trained on; UserError where that is not allowed."""
    if split.by_image and evaluation.split == "test":
        return []  # the classes are those of the training, as plain.check_run has seen to, and the images are others
    shared = known(split, trained)
    if shared and not evaluation.allow_overlap:
        named = ", ".join(shared[:10]) + (f" and {len(shared) - 10} more" if len(shared) > 10 else "")
        raise UserError(
            f"{folder} was trained on {len(shared)} of the {len(set(split.ids))} classes of the {evaluation.split} "
            f"split: {named}. Their accuracy says nothing about new classes; eval.allow_overlap=true goes on and "
            "stamps the result"
        )
    return shared


def _one(folder: Path, cfg: DictConfig) -> tuple[dict[str, Any], np.ndarray]:
    settle(cfg)
    saved = checkpoint.load(folder / "best.pt")
    task, evaluation = settings(Task, cfg.task, "task"), settings(Eval, cfg.eval, "eval")
    where = device(cfg.device)
    split = build(cfg.data, "data").load(evaluation.split)
    task, evaluation = protocol.settled(task, evaluation, split)
    how, tested = method(cfg.algo, task.way, test=True)
    bn = evaluation.bn or how.bn
    attacks = robust.asked(cfg.attack, evaluation.eps)
    robust.refuse_transductive(attacks, bn)
    robust.refuse_random(attacks, tested, cfg.reg)
    if split.by_image:
        plain.check_run(folder, how.name, saved, split, attacks)
        tested = plain.classifier(how, split, bn)
    built = build(cfg.engine, "engine")
    net = rebuilt(cfg, saved).to(where)
    shared = overlap(split, saved["classes"], evaluation, folder)
    split = matched(split, saved["shape"][0], saved["shape"][1])
    tasks = min(evaluation.batch, evaluation.episodes)
    images = task.way * (task.shot + task.query)
    engine = chosen(built, Work(where.type, None, saved["shape"][1], tasks, images, how.steps))
    runs, what = (EachImage(engine), "images") if split.by_image else (engine, "episodes")
    source = episode_source(task, split, tasks, cfg.seed, evaluation.split, where)
    terms = regularisation(cfg.reg, how.steps)
    objective = by_way(task, tested, lambda algo, way: measured_objective(how, algo, bn, way, terms))
    logger.info(f"{folder}: {evaluation.episodes} {what} of {len(split.ids)} {evaluation.split} classes, bn={bn}")
    torch.manual_seed(cfg.seed)  # of heads that are drawn for each task
    accuracy, loss = measure(runs, objective, net, source, evaluation.episodes, bn)
    further = _further(cfg, task, evaluation, split, lambda other, episodes: outcome(runs, other, net, episodes, bn))
    normed = any(isinstance(m, BatchStatNorm) for m in net.modules())
    row = _facts(folder, cfg, saved, task, bn if normed else None) | {"loss": float(loss.mean()), **further}
    notes = {split.note, saved["data"]["note"], plain.NOTE if split.by_image else ""}
    if attacks.built:
        torch.manual_seed(cfg.seed)  # of the random starts
        drop = isinstance(engine, Learn2Learn)
        attacked = by_way(task, tested, lambda algo, way: robust_objective(how, algo, bn, attacks, terms, drop))
        steps = range(-(-evaluation.episodes // tasks))
        results = (outcome(runs, attacked, net, source(step), bn) for step in steps)
        row["attacks"] = robust.records(attacks, results, evaluation.episodes)
        notes.add(robust.mismatch(bn, saved["config"]["train"]["bn"] or "batch") if normed else "")
    notes = sorted(notes - {""})
    row |= {"note": "; ".join(notes)} if notes else {}
    row |= {"overlap": shared} if shared else {}
    row |= protocol.told(split, accuracy, source)
    return row, accuracy


def _facts(folder: Path, cfg: DictConfig, saved: dict[str, Any], task: Task, bn: str | None) -> dict[str, Any]:
    """Return what was evaluated, and how; bn: None for a net without batch norm."""
    return {
        "run": str(folder),
        **protocol.sizes(task),
        "split": cfg.eval.split,
        "data": cfg.data["_target_"].rpartition(".")[2].lower(),
        "trained_on": saved["config"]["data"]["_target_"].rpartition(".")[2].lower(),
        "algo": cfg.algo.name,
        "bn": bn,
        "transductive": bn == "batch",
        "seed": cfg.seed,
        "train_seed": saved["config"]["seed"],
        "step": saved["state"]["step"],
        "checkpoint": str(folder / "best.pt"),
    }


def _further(
    cfg: DictConfig, task: Task, evaluation: Eval, split: Split, run: Callable[[Objective, Episode], TaskResult]
) -> Shares:
    """Return what the algorithm's further objective shows; nothing where it names none or the data gives episodes."""
    how, tested = method(cfg.algo, task.way, test=True)
    if how.besides is None or split.fixed is not None or not task.fixed:
        return {}
    tasks, where = min(evaluation.batch, evaluation.episodes), device(cfg.device)
    source = episode_source(shape(task, how, split), split, tasks, cfg.seed, evaluation.split, where)
    other = assemble.objective(how.besides, tested, how.steps, how.loss, how.loss, evaluation.bn or how.bn)
    return besides(lambda episodes: run(other, episodes), source, evaluation.episodes)
