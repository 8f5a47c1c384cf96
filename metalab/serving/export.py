"""`metalab export`: a run's adapted net, its episodes or its features, as a file that needs no metalab."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from metalab import __version__
from metalab.config.experiment import read_config
from metalab.config.schema import Predict
from metalab.config.validate import check_type
from metalab.core.disk import disk_errors
from metalab.core.errors import UserError
from metalab.serving.ensemble import load_model, refuse_parts_of_ensemble
from metalab.serving.export_formats import FORMATS, Compute, Format, check_installed, quiet
from metalab.serving.exportable import Exportable, What, adapted, episode, features
from metalab.serving.images import read_support
from metalab.serving.joint import refuse_one_by_one
from metalab.serving.loading import LoadedRun
from metalab.serving.practice import Practice, build_practice
from metalab.tracking.run_lock import locked_run

logger = logging.getLogger("metalab")
KEYS = ("support", "what", "format")  # of the root, beside those of every command
SUPPORT = Predict(strict=False, reject=None, calibrate=True, batch=100)  # how a support becomes a classifier
JOINT = "an exported classifier takes any images (what=features exports the net)"
LARGEST = 1e-4  # difference between a file's outputs and ours, of the largest of ours where that is above 1


@dataclass(frozen=True)
class Export:
    """What is written."""

    what: What
    format: Format


def run(runs: Sequence[tuple[Path | None, DictConfig]], out: Path) -> float:
    """Export what a configuration says to out, and check the file.

    Args:
        runs: the folder of a run (None: a pretrained backbone, and no run), and the configuration of the command for
            it; several are the members of an ensemble.
        out: the folder for model.onnx, model.pt2 or model.safetensors, and model.json.

    Returns:
        The largest difference between the file's outputs and ours.

    Raises:
        UserError: for settings that do not fit, before anything is written, and for a file that computes another thing.
    """
    configs = [(folder, read_config(cfg, KEYS)) for folder, cfg in runs]
    config = configs[0][1]
    asked = Export(*(check_type(config.whole[name], hint, name) for name, hint in (("what", What), ("format", Format))))
    check_installed(asked.format)
    if config.device not in ("cpu", "auto"):
        raise UserError(f"device={config.device}: a net is exported on the processor, type device=cpu")
    given = None if config.whole["support"] is None else str(config.whole["support"])
    with locked_run(out), torch.no_grad():
        loaded = load_model([(folder, replace(own, device="cpu")) for folder, own in configs], SUPPORT.batch)
        refuse_parts_of_ensemble(loaded, asked.what, asked.format)
        if asked.what == "adapted" and given is not None:
            refuse_one_by_one(loaded.adaptation, loaded.algo_name, JOINT)
        practice = build_practice(loaded, given, SUPPORT, config.seed) if asked.what == "adapted" else None
        what = _exportable(loaded, practice, given, asked)
        facts = _facts(loaded, practice, what, asked)
        path = out / f"model.{asked.format}"
        largest = write_checked(path, what, asked.format, facts)
        facts |= {"check": {"largest_difference": largest, "images_of": what.checked_on}}
        with disk_errors(out / "model.json"):
            (out / "model.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    logger.info(f"largest difference {largest:.1g} between the file's {what.output} and ours, on {what.checked_on}")
    logger.info(f"{path} ({path.stat().st_size / 1e6:.2g} MB); what it is, and how images are prepared: model.json")
    return largest


def _exportable(run: LoadedRun, practice: Practice | None, given: str | None, asked: Export) -> Exportable:
    if asked.what == "episode":
        refuse_one_by_one(run.adaptation, run.algo_name, JOINT)
    if practice is not None:
        made = adapted(run, run.adaptation if practice.support else run.trained_adaptation()[0], practice)
        if asked.format == "safetensors" and made.weights is None:
            raise UserError(
                f"format=safetensors: algo={run.algo_name} adapts no weights to a support: what=features writes those "
                "of the net, and format=onnx or format=pt2 the classifier"
            )
        return made
    support = None if given is None else read_support(given, run.decode)
    return episode(run, support) if asked.what == "episode" else features(run, support)


def write_checked(path: Path, what: Exportable, name: Format, facts: dict[str, Any]) -> float:
    """Write a file, read it, and return the largest difference between its outputs and ours.

    Raises:
        UserError: where it cannot be written, or differs by more than 1e-4; the file is then removed.
    """
    kind = FORMATS[name]
    try:
        with quiet(), disk_errors(path):
            kind.write(path, what, facts)
            largest = _largest_difference(kind.read(path, what), what)
    except UserError:
        path.unlink(missing_ok=True)
        raise
    except Exception as error:  # exporters raise anything
        path.unlink(missing_ok=True)
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        logger.debug("%s", path, exc_info=True)
        others = " or ".join(f"format={each}" for each in FORMATS if each != name)
        raise UserError(f"format={name}: this net cannot be written so ({why}): try {others}") from error
    if not largest <= LARGEST:  # true of nan
        path.unlink(missing_ok=True)
        raise UserError(
            f"format={name}: the file's {what.output} differ by {largest:.1g} from ours, more than {LARGEST:g}, and it "
            "was removed: another format, or another version of torch or onnxscript, may do better"
        )
    return largest


def _largest_difference(theirs: Compute, what: Exportable) -> float:
    """Return the largest difference of outputs, by the largest of ours where that is above 1."""
    found = []
    for inputs in what.checks:
        ours, other = what.ours(*inputs), theirs(*inputs)
        if ours.shape != other.shape:
            return float("inf")
        found.append(_difference(ours, other) / max(1.0, float(ours.abs().max())))
    return max(found) if all(each == each for each in found) else float("nan")


def _difference(ours: Tensor, other: Tensor) -> float:
    return float(torch.where(ours == other, 0.0, (ours - other).abs()).max())


def _facts(run: LoadedRun, practice: Practice | None, what: Exportable, asked: Export) -> dict[str, Any]:
    """Return what a user of the file must know; it stands in the file, too."""
    shape = {"support": ["support"], "labels": ["support"]}
    images = [run.preparation["channels"], run.preparation["size"], run.preparation["size"]]
    return {
        "metalab": __version__,
        "what": asked.what,
        "run": run.origin,
        "algo": run.algo_name,
        "bn": what.bn,
        "classes": None if practice is None else practice.classifier.names,
        "temperature": None if practice is None else practice.temperature,
        "expected": None if practice is None or practice.expected is None else practice.expected.words,
        "inputs": {n: shape.get(n, [n]) + ([] if n == "labels" else images) for n in what.inputs},
        "output": what.output,
        "preparation": {"resize": None, "interpolation": "bicubic", **run.preparation, "range": [0, 1]},
        "note": run.notes if practice is None else practice.notes,
    }
