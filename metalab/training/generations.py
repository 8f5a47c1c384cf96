"""train.generations: born-again nets, each trained anew with the one before it as its teacher."""

import json
import logging
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from metalab.algorithms.build import build_algorithm
from metalab.config.experiment import ExperimentConfig, read_config
from metalab.config.validate import format_value
from metalab.core.disk import disk_errors
from metalab.core.errors import UserError
from metalab.regularizers.build import build_regularizers
from metalab.tracking import checkpoint_schema
from metalab.tracking.run_folder import checkpoint_in
from metalab.tracking.run_lock import locked_run
from metalab.training import resume, train
from metalab.training.teacher import refuse_support_alone

logger = logging.getLogger("metalab")
APART = 10**6  # between the seeds of two generations: those of one run meet those of no other that one would type


def run(cfg: DictConfig, config: ExperimentConfig, out: Path) -> float:
    """Train train.generations nets one after another; return the best validation accuracy of the last, a fraction.

    Furlanello et al., "Born-Again Neural Networks" (2018), sec. 3; Tian et al., "Rethinking Few-Shot Image
    Classification" (2020), sec. 3.3. out/generation0 trains without reg.distill, and out/generation1, ... from other
    random weights (seed + 1,000,000 each) and on other episodes, with the one before as their teacher. They are runs
    as any other; out/generations.json has what they come to. The same command in the same folder, or resume=out, goes
    on where it was stopped; a generation that a later one has learned from is left as it is.

    Raises:
        UserError: before any training where there can be no generations, else as train.run.
    """
    _refuse(config)
    count = config.train.generations
    folders = [out / f"generation{k}" for k in range(count)]
    best: list[float] = []
    with locked_run(out):
        if begun := [folder for folder in folders if _begun(folder)]:  # before config.yaml is another's
            resume.load_resumable(read_config(_of_generation(cfg, folders, folders.index(begun[-1]))), begun[-1])
        _write_config(config, out)
        for k, folder in enumerate(folders):
            logger.info(f"generation {k}, one of 0 to {count - 1}: {folder}")
            if k + 1 < count and _begun(folders[k + 1]):
                saved = checkpoint_schema.load_checked(checkpoint_in(folder))
                best.append(saved["state"]["best_accuracy"] or 0.0)
                continue
            best.append(train.run(_of_generation(cfg, folders, k), folder))
        _write_record(out, folders, best, config.seed)
    return best[-1]


def _of_generation(cfg: DictConfig, folders: list[Path], k: int) -> DictConfig:
    """Return the configuration of one generation's run."""
    own = deepcopy(cfg)
    with open_dict(own):
        own.train.generations = 1
        own.seed = cfg.seed + k * APART
        own.resume = str(folders[k]) if _begun(folders[k]) else None
        if k:
            own.reg.distill.teacher = str(folders[k - 1])
        else:
            del own.reg["distill"]
    return own


def _begun(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("last.pt", "best.pt"))


def _refuse(config: ExperimentConfig) -> None:
    """Raise UserError where the settings have no generations to train."""
    asked = f"train.generations={config.train.generations}"
    if "distill" not in config.reg:
        raise UserError(f"{asked}: each generation learns from the one before, by reg.distill: type reg=distill")
    if (teacher := config.reg["distill"].get("teacher")) is not None:
        raise UserError(
            f"{asked} with reg.distill.teacher={teacher}: the teacher is the generation before; leave out one of them"
        )
    if config.train.init is not None:
        raise UserError(
            f"{asked} with train.init={config.train.init}: each generation starts from other random weights; leave out "
            "train.init"
        )
    if config.eval.folds is not None:
        raise UserError(f"{asked} with eval.folds={config.eval.folds}: type one of them; a fold has one generation")
    _refuse_students(config, asked)


def _refuse_students(config: ExperimentConfig, asked: str) -> None:
    """Raise UserError for what generation 0, which has no teacher, would train without complaint, and the next not."""
    algo, _ = build_algorithm(config.algo, config.task.way, test=False)
    build_regularizers(config.reg, algo.steps, algo)
    refuse_support_alone(algo)
    other_classes = config.train.bootstrap == "classes" or (
        config.train.bootstrap is True and config.data.get("protocol") != "images"
    )
    if algo.objective_traits.classifies and other_classes:
        raise UserError(
            f"{asked} with train.bootstrap={format_value(config.train.bootstrap)}: each generation would draw other "
            "classes by its seed, and its teacher's predictions say nothing of these: leave out train.bootstrap"
        )


def _write_config(config: ExperimentConfig, out: Path) -> None:
    """Write config.yaml, from which resume=out goes on."""
    whole: dict[str, Any] = {**config.whole, "resume": None}
    with disk_errors(out / "config.yaml"):
        OmegaConf.save(OmegaConf.create(whole), out / "config.yaml")


def _write_record(out: Path, folders: list[Path], best: list[float], seed: int) -> None:
    """Write generations.json: each generation's folder, seed and best validation accuracy; and show these."""
    rows = [
        {"generation": k, "run": folder.name, "seed": seed + k * APART, "validation": accuracy}
        for k, (folder, accuracy) in enumerate(zip(folders, best, strict=True))
    ]
    path, new = out / "generations.json", out / ".generations.json.new"
    with disk_errors(path):
        new.write_text(json.dumps({"generations": rows}, indent=2) + "\n", encoding="utf-8")
        os.replace(new, path)
    listed = ", ".join(f"{row['generation']}: {100 * row['validation']:.1f} %" for row in rows)
    logger.info(f"best validation accuracy of each generation: {listed}. metalab eval run={out} evaluates the last")
