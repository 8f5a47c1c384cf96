"""train.boost: what earlier runs get wrong of the training data is drawn more often, by SAMME."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from metalab.config.experiment import ExperimentConfig, read_config
from metalab.core.errors import UserError
from metalab.core.interfaces import Resampling, Split
from metalab.data.identity.class_ids import fingerprint
from metalab.data.sampling.class_order import classifier_labels
from metalab.evaluation.ensemble.measured import Measured, labels_of, measured
from metalab.evaluation.query_predictions import predicted, query_classes
from metalab.evaluation.setup import EvaluationSetup, build_evaluation_setup
from metalab.tracking import checkpoint_schema, provenance
from metalab.tracking.run_folder import find_run
from metalab.training.samme import Boost, alpha, restored, samme, usable, weighted_error
from metalab.training.setup import TrainingSetup

logger = logging.getLogger("metalab")


def boosted(r: TrainingSetup, saved: dict[str, Any] | None) -> TrainingSetup:
    """Return the setup with its training images or classes weighted by the errors of the runs in train.boost.

    Args:
        r: the training.
        saved: the checkpoint that it goes on from, which has the weights; None: the earlier runs are asked.

    Raises:
        UserError: for an earlier run of other training data, and one that is always right, or no better than chance.
    """
    if not r.train.boost:
        return r
    made = _kept(saved) if saved is not None else _boost(r, [find_run(run) for run in r.train.boost])
    split = r.data["train"]
    weighted = WEIGHTED[split.protocol]
    if len(made.weights) != weighted.count(split):
        raise UserError(
            f"train.boost: the checkpoint has {len(made.weights)} weights, and the training split has other images or "
            "classes: give it the same data"
        )
    train = replace(split, resampling=weighted.resampling(made.weights))
    return replace(r, boost=made, data={**r.data, "train": train})


def _kept(saved: dict[str, Any]) -> Boost:
    try:
        return restored(saved["boost"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError("the checkpoint lacks the weights of train.boost: it was altered, train again") from error


def record(r: TrainingSetup, out: Path) -> None:
    """Write to run.json what the boosting came to, with the error and the alpha of the run's own best.pt."""
    if r.boost is None:
        return
    wrong = training_errors(r, out)
    error = weighted_error(wrong, r.boost.weights.numpy())
    own = alpha(error, _classes(r))
    if not usable(own):
        logger.warning(f"its weighted error on the training data is {error:.4f}, for which SAMME has no alpha")
    kept = {"runs": r.boost.runs, "errors": r.boost.errors, "alphas": r.boost.alphas}
    provenance.write(out, boost={**kept, "error": error, "alpha": own if usable(own) else None})


def record_missing(r: TrainingSetup, out: Path) -> None:
    """Write what record does where a training was killed after its last step, before it was written."""
    if r.boost is not None and (out / "best.pt").is_file() and "boost" not in provenance.read(out):
        record(r, out)


def _classes(r: TrainingSetup) -> int:
    return r.task.way  # of images all classes: ImageProtocol.sized


def _boost(r: TrainingSetup, folders: list[Path]) -> Boost:
    wrong = [training_errors(r, folder) for folder in folders]
    errors, alphas, weights = samme(wrong, _classes(r))
    for folder, error, by in zip(folders, errors, alphas, strict=False):
        logger.info(f"train.boost: {folder} has a weighted error of {error:.4f} on the training data, alpha {by:.4f}")
    if len(alphas) < len(folders):
        folder, error = folders[len(alphas)], errors[-1]
        why = (
            "there is nothing for another to learn from: train it for fewer steps"
            if error <= 0
            else (f"no better than chance, {1 - 1 / _classes(r):.4f}: train it for more steps")
        )
        raise UserError(f"train.boost: {folder} has a weighted error of {error:.4f} on the training data, {why}")
    return Boost([str(folder) for folder in folders], errors, alphas, torch.from_numpy(weights))


def training_errors(r: TrainingSetup, folder: Path) -> np.ndarray:
    """Return what a run gets wrong of a training's images, or, of episodes, of its classes.

    Args:
        r: the training, which has the same training data as the run.
        folder: of the run.

    Returns:
        float64 [n]: of each image 0 or 1, the images class by class; or of each class the share of its queries in
        eval.episodes episodes of the training split, drawn apart from those of training. A class in none has the mean.
    """
    saved = checkpoint_schema.load_checked(folder / "best.pt")
    whole = r.whole
    if (labels := classifier_labels(whole).ids) and saved.get("labels") != labels:
        raise UserError(
            f"train.boost: {folder} has no classifier of these {len(whole.ids)} classes: give a run of them"
        )
    if saved["data"]["train"] != fingerprint(whole):
        raise UserError(
            f"train.boost: {folder} was trained on other images or classes than these; boosting weights the same ones: "
            "give it the same data, data.root and data.seed"
        )
    t = build_evaluation_setup(folder, _on_training_split(r, saved["config"]))
    return WEIGHTED[whole.protocol].errors(t, measured(t))


def _on_training_split(r: TrainingSetup, node: dict[str, Any]) -> ExperimentConfig:
    """Return a run's settings for a look at the training split of this training."""
    own = read_config(OmegaConf.create(node))
    look = replace(
        r.config.eval, split="train", bn=own.eval.bn, allow_overlap=True, unknown=None, temperature=None, eps=None
    )
    clean = replace(r.config.task, shots=None, label_noise=0.0)  # these are of validation and test
    shared = {key: value for key, value in own.attack.items() if not isinstance(value, Mapping)}
    return replace(own, eval=look, data=r.config.data, task=clean, device=r.config.device, seed=r.seed, attack=shared)


def _of_images(t: EvaluationSetup, found: Measured) -> np.ndarray:
    wrong = np.zeros(len(t.split.images))
    source = t.source(t.task)
    for step, (part, y) in enumerate(zip(found.logits, labels_of(t, found), strict=True)):
        wrong[source.indices(step).image.flatten().numpy()] = (predicted(part) != y).flatten().numpy()
    place = torch.arange(int(t.split.count.sum())) - (t.split.count.cumsum(0) - t.split.count).repeat_interleave(
        t.split.count
    )
    return wrong[(t.split.first.repeat_interleave(t.split.count) + place).numpy()]


def _of_classes(t: EvaluationSetup, found: Measured) -> np.ndarray:
    seen = query_classes(t.source(t.task), t.task, [predicted(part) for part in found.logits], t.evaluation.episodes)
    queries = np.bincount(seen.true, minlength=len(t.split.ids))
    wrong = np.bincount(seen.true, seen.true != seen.predicted, len(t.split.ids))
    return np.where(queries > 0, wrong / np.maximum(queries, 1), wrong.sum() / queries.sum())


@dataclass(frozen=True)
class Weighted:
    """What of a training split has a weight each: its images, or its classes."""

    count: Callable[[Split], int]
    resampling: Callable[[Tensor], Resampling]
    errors: Callable[[EvaluationSetup, Measured], np.ndarray]


WEIGHTED = {
    "images": Weighted(lambda split: int(split.count.sum()), lambda w: Resampling(None, None, w), _of_images),
    "classes": Weighted(lambda split: len(split.ids), lambda w: Resampling(w, None, None), _of_classes),
}
