"""`metalab eval`: rebuild a run from its best checkpoint and measure it on many episodes of unseen classes."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import nn

from metalab import checkpoint, report
from metalab.assemble import device, method, network, regularisation, test_objective
from metalab.config import Eval, Task, build, settings
from metalab.data.episodes import Episodes
from metalab.errors import UserError
from metalab.interfaces import Engine, EpisodeSource, Objective, Split
from metalab.models.layers import BatchStatNorm, Normalise, running_statistics

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
    net.eval()
    accuracy: list[torch.Tensor] = []
    loss: list[torch.Tensor] = []
    step = 0
    while sum(map(len, accuracy)) < episodes:
        if bn == "running":
            with running_statistics():
                result = engine.evaluate(objective, net, source(step))
        else:
            result = engine.evaluate(objective, net, source(step))
        accuracy.append(result.correct.double().mean(1))
        loss.append(result.scalars["loss"].double())
        step += 1
    joined = torch.stack([torch.cat(accuracy)[:episodes], torch.cat(loss)[:episodes]]).cpu().numpy()
    return joined[0], joined[1]


def matched(split: Split, channels: int, size: int) -> Split:
    """Return the split with its images made [channels,size,size], as a net trained on other images needs them."""
    images = split.images
    if images.shape[1:] == (channels, size, size):
        return split
    logger.info(f"images {list(images.shape[1:])} are made {[channels, size, size]}, as the run was trained on")
    grey = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601, as Pillow's convert("L")
    made = []
    for chunk in images.split(512):
        x = chunk.float()
        if x.shape[1] != channels:
            x = (x * grey).sum(1, keepdim=True) if channels == 1 else x.expand(-1, channels, -1, -1)
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        made.append(x.round().clamp(0, 255).to(torch.uint8))
    return replace(split, images=torch.cat(made))


def rebuilt(cfg: DictConfig, saved: dict[str, Any]) -> nn.Module:
    """Return the net of a checkpoint with its weights."""
    channels, size, _ = saved["shape"]
    how, trained = method(cfg.algo, saved["train_way"], test=False)
    drop = regularisation(cfg.reg, how.steps).drop or nn.Sequential()
    net = network(cfg.backbone, trained, drop, Normalise([0.0] * channels, [1.0] * channels), size)
    try:
        net.load_state_dict(saved["net"])
    except RuntimeError as error:
        raise UserError(f"the checkpoint does not fit algo and backbone as given now: {error}") from error
    return net


def overlap(split: Split, trained: list[str], evaluation: Eval) -> list[str]:
    """Return the classes of the split that the checkpoint was trained on; UserError where that is not allowed."""
    shared = sorted(set(split.ids) & set(trained))
    if shared and not evaluation.allow_overlap:
        named = ", ".join(shared[:10]) + (f" and {len(shared) - 10} more" if len(shared) > 10 else "")
        raise UserError(
            f"{len(shared)} of the {len(set(split.ids))} classes were trained on: {named}. Their accuracy says nothing "
            "about new classes; eval.allow_overlap=true goes on and stamps the result"
        )
    return shared


def _one(folder: Path, cfg: DictConfig) -> tuple[dict[str, Any], np.ndarray]:
    saved = checkpoint.load(folder / "best.pt")
    task, evaluation = settings(Task, cfg.task, "task"), settings(Eval, cfg.eval, "eval")
    where = device(cfg.device)
    how, tested = method(cfg.algo, task.way, test=True)
    engine = build(cfg.engine, "engine")
    net = rebuilt(cfg, saved).to(where)
    split = build(cfg.data, "data").load(evaluation.split)
    shared = overlap(split, saved["classes"], evaluation)
    split = matched(split, saved["shape"][0], saved["shape"][1])
    tasks = min(evaluation.batch, evaluation.episodes)
    source = Episodes(split, task.way, task.shot, task.query, tasks, cfg.seed, evaluation.split, where)
    bn = evaluation.bn or how.bn
    objective = test_objective(tested, how.steps, bn)
    logger.info(f"{folder}: {evaluation.episodes} episodes of {len(split.ids)} {evaluation.split} classes, bn={bn}")
    accuracy, loss = measure(engine, objective, net, source, evaluation.episodes, bn)
    normed = any(isinstance(m, BatchStatNorm) for m in net.modules())
    row: dict[str, Any] = {
        "run": str(folder),
        "way": task.way,
        "shot": task.shot,
        "query": task.query,
        "split": evaluation.split,
        "data": cfg.data["_target_"].rpartition(".")[2].lower(),
        "algo": how.name,
        "bn": bn if normed else None,
        "transductive": normed and bn == "batch",
        "seed": cfg.seed,
        "train_seed": saved["config"]["seed"],
        "step": saved["state"]["step"],
        "loss": float(loss.mean()),
        "checkpoint": str(folder / "best.pt"),
    }
    notes = sorted({split.note, saved["data"]["note"]} - {""})
    row |= {"note": "; ".join(notes)} if notes else {}
    row |= {"overlap": shared} if shared else {}
    return row, accuracy
