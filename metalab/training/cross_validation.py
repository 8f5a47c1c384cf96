"""eval.folds: a classifier for each fold of few images, so that every image is tested once and never by its own net."""

import json
import logging
from copy import deepcopy
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from metalab.config.experiment import ExperimentConfig
from metalab.config.instantiate import build
from metalab.core.errors import UserError
from metalab.evaluation import evaluate
from metalab.tracking import folds_report
from metalab.tracking.run_lock import locked_run
from metalab.training.subruns import train_or_go_on

logger = logging.getLogger("metalab")


def run(cfg: DictConfig, config: ExperimentConfig, out: Path) -> float:
    """Train and test a run for each of eval.folds; return the mean of their best validation accuracies, a fraction.

    out/fold0, out/fold1, ... are runs as any other, with data.folds and data.fold in their settings; out/eval has their
    evaluation and out/folds.json what it comes to. A fold that is there already goes on, and one that has ended is left
    as it is: the same command in the same folder resumes all of them.

    Raises:
        UserError: before any training where there can be no folds, else as train.run and evaluate.run.
    """
    folds = config.eval.folds
    assert folds is not None  # train.run asks
    _refuse(config, folds)
    runs = [(out / f"fold{k}", _of_fold(cfg, folds, k)) for k in range(folds)]
    build({**config.data, "folds": folds}, "data").load("test")  # which splits the images, and says where it cannot
    best = []
    with locked_run(out):
        for k, (folder, fold) in enumerate(runs):
            logger.info(f"fold {k}, one of 0 to {folds - 1}: {folder}")
            best.append(train_or_go_on(fold, folder))
        evaluate.run(runs, out / "eval")
        records = json.loads((out / "eval" / "eval.json").read_text(encoding="utf-8"))["runs"]
        folds_report.write(out, records, best)
    return float(np.mean(best))


def _of_fold(cfg: DictConfig, folds: int, fold: int) -> DictConfig:
    """Return the configuration of one fold's run."""
    own = deepcopy(cfg)
    own.eval.folds = None
    own.data.folds, own.data.fold = folds, fold
    return own


def _refuse(config: ExperimentConfig, folds: int) -> None:
    """Raise UserError where the settings have no folds to train."""
    if config.resume is not None:
        raise UserError(
            f"eval.folds={folds} with resume={config.resume}: a fold is gone on with as any run, without eval.folds; "
            "all of them by the command that began them, with hydra.run.dir= the folder that holds fold0"
        )
    if "folds" not in config.data or config.data.get("protocol") != "images":
        raise UserError(
            f"eval.folds={folds}: folds are of the images of your own folder, for a plain classifier; type data=folder "
            "data.root=/path/to/images data.protocol=images algo=baseline"
        )
    if config.data["folds"] is not None:
        raise UserError(
            f"eval.folds={folds} with data.folds={config.data['folds']}: eval.folds trains each fold in turn, "
            "data.folds with data.fold one of them; leave one out"
        )
    if config.eval.split != "test":
        raise UserError(f"eval.split={config.eval.split}: eval.folds tests each image once; leave out eval.split")
