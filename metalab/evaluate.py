"""`metalab eval`: measure a run's best checkpoint on many episodes of unseen classes."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from metalab import assemble, plain, protocol, report, toll
from metalab.assemble import by_way, measured_objective, robust_objective
from metalab.attacks import records as robust
from metalab.besides import Shares, besides, shape
from metalab.engines.learn2learn import Learn2Learn
from metalab.hold import held
from metalab.measure import measure
from metalab.sampling import Source
from metalab.signals import warnings_survived
from metalab.trial import Trial, prepared

logger = logging.getLogger("metalab")
AGAIN = "episodes of the train split that are drawn apart from those of training"


def run(runs: list[tuple[Path, DictConfig]], out: Path) -> float:
    """Evaluate each run as its config says; write the report to out and return the mean accuracy, a fraction."""
    with held(out), warnings_survived():
        results = [_one(folder, cfg) for folder, cfg in runs]
        report.write(out, [r for r, _ in results], [a for _, a in results])
    return float(np.mean([a.mean() for _, a in results]))


def _one(folder: Path, cfg: DictConfig) -> tuple[dict[str, Any], np.ndarray]:
    t = prepared(folder, cfg)
    what = "images" if t.split.by_image else "episodes"
    logger.info(
        f"{folder}: {t.evaluation.episodes} {what} of {len(t.split.ids)} {t.evaluation.split} classes, bn={t.bn}"
    )
    if warning := _toll(t):
        logger.warning(warning)
    source = t.source(t.task)
    objective = by_way(t.task, t.tested, lambda algo, way: measured_objective(t.how, algo, t.bn, way, t.terms))
    torch.manual_seed(cfg.seed)  # of heads that are drawn for each task
    accuracy, loss = measure(t.outcomes(objective, source, what), t.evaluation.episodes)
    lost = int((~np.isfinite(loss)).sum())
    row = _facts(t) | {"loss": float(loss.mean()), **_further(t)}
    trained = t.saved["data"]["note"]
    notes = {t.split.note, plain.NOTE if t.split.by_image else ""}
    notes.add(AGAIN if t.evaluation.split == "train" and not t.split.by_image else "")
    notes |= {f"trained on: {trained}"} if trained and trained != t.split.note else set()
    notes |= {f"adapted to supports that reg.{n} attacked" for n, p in cfg.reg.items() if p.get("where") == "inner"}
    if t.attacks.built:
        row["attacks"] = _attacked(t, source)
        notes.add(robust.mismatch(t.bn, t.saved["config"]["train"].get("bn") or "batch") if t.normed else "")
        notes |= robust.of_support(t.attacks)
    notes.add(
        f"{lost} of {len(loss)} {what} have predictions that are no numbers, which count as wrong" if lost else ""
    )
    notes = sorted(notes - {""})
    row |= {"note": "; ".join(notes)} if notes else {}
    row |= {"overlap": t.overlap} if t.overlap else {}
    row |= protocol.told(t.split, accuracy, source)
    return row, accuracy


def _toll(t: Trial) -> str | None:
    """Return what the evaluation will take where its numbers are very large, else None."""
    passes, made_of = 1 + t.how.steps, {"eval.episodes": t.evaluation.episodes}
    made_of |= {"algo.test_steps": t.how.steps} if t.how.steps > 100 else {}
    for (name, _), attack in t.attacks.built.items():
        passes += attack.steps or 1
        made_of |= {f"attack.{name}.steps": attack.steps} if (attack.steps or 0) > 100 else {}
    images = 1 if t.split.by_image else t.task.way * (t.task.shot + t.task.query)
    channels, side, _ = t.saved["shape"]
    return toll.told(t.net, images, (channels, side), t.evaluation.episodes * passes, toll.HOUR, made_of)


def _attacked(t: Trial, source: Source) -> list[dict[str, Any]]:
    """Return a record for each attack and eps, on the episodes of the clean measurement."""
    torch.manual_seed(t.cfg.seed)  # of the random starts
    drop = isinstance(t.engine, Learn2Learn)
    attacked = by_way(t.task, t.tested, lambda algo, way: robust_objective(t.how, algo, t.bn, t.attacks, t.terms, drop))
    return robust.records(t.attacks, t.outcomes(attacked, source, "attacked"), t.evaluation.episodes)


def _facts(t: Trial) -> dict[str, Any]:
    """Return what was evaluated, and how; bn is None for a net without batch norm."""
    bn = t.bn if t.normed else None
    return {
        "run": str(t.folder),
        **protocol.sizes(t.task),
        "split": t.cfg.eval.split,
        "data": t.cfg.data["_target_"].rpartition(".")[2].lower(),
        "trained_on": t.saved["config"]["data"]["_target_"].rpartition(".")[2].lower(),
        "algo": t.cfg.algo.name,
        "bn": bn,
        "transductive": bn == "batch",
        "seed": t.cfg.seed,
        "train_seed": t.saved["config"]["seed"],
        "step": t.saved["state"]["step"],
        "checkpoint": str(t.folder / "best.pt"),
    }


def _further(t: Trial) -> Shares:
    """Return what the algorithm's further objective shows; nothing where it names none or the data gives episodes."""
    how = t.how
    if how.besides is None or t.split.fixed is not None or not t.task.fixed:
        return {}
    other = assemble.objective(how.besides, t.tested, how.steps, how.loss, how.loss, t.bn)
    source = t.source(shape(t.task, how, t.split))
    return besides(lambda episodes: t.outcome(other, episodes), source, t.evaluation.episodes)
