"""train.phases: one training after another, each from the weights of the one before, and what is kept of each."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from metalab.config.experiment import ExperimentConfig, read_config
from metalab.core.disk import disk_errors
from metalab.core.errors import UserError
from metalab.core.optional_output import optional_output
from metalab.data.identity import class_ids
from metalab.data.sampling.class_order import Labels, classifier_labels
from metalab.evaluation.transfer.forgetting import so_far, summarize
from metalab.evaluation.transfer.other_data import validation_accuracy
from metalab.models.build import build_body, image_shape
from metalab.tracking import phases_report
from metalab.tracking.run_folder import phase_folder, refuse_existing_run, refuse_generations
from metalab.tracking.run_lock import locked_run
from metalab.training import pruning, replaying
from metalab.training.setup import TrainingSetup, build_training_setup
from metalab.training.subruns import train_or_go_on
from metalab.training.warm_start import refuse_leaked

logger = logging.getLogger("metalab")


def run(whole: DictConfig, phases: Sequence[DictConfig], out: Path) -> float:
    """Train each phase in turn; return the mean accuracy on all phases' validation data after the last one.

    out/phase0, out/phase1, ... are runs as any other. One that is there already goes on, and one that has ended is left
    as it is. out/phases.json has the accuracy on the validation data of each phase after each, and what it comes to.

    Args:
        whole: the configuration that asks for phases, as out/config.yaml keeps it.
        phases: the configuration of each, the later ones with train.init= the folder of the one before.
        out: the folder of all.

    Raises:
        UserError: before any training where a phase cannot be built or does not follow the one before; else as
            train.run.
    """
    config, configs = read_config(whole), [read_config(each) for each in phases]
    pruning.warn_of_parts(config)
    if config.resume is None:
        refuse_existing_run(out)
        refuse_generations(out)
    setups = check(configs)
    kinds = [r.data["train"].by_image for r in setups]
    if all(r.terms.replay is None for r in setups):
        setups = []  # their images need not stay in memory
    with locked_run(out):
        _write_settings(out, config, configs)
        after = phases_report.read(out)
        for k, cfg in enumerate(phases):
            logger.info(f"phase {k}, one of 0 to {len(phases) - 1}: {phase_folder(out, k)}")
            best = train_or_go_on(cfg, phase_folder(out, k))
            replaying.remember(configs, setups, out, k)
            if k < len(after):
                continue
            after.append(_measured(out, configs, kinds, k, best))
            phases_report.write(out, _described(out, configs), after)
            with optional_output("the scalars of the phases"):
                phases_report.draw(out, k, after[-1])
        phases_report.show(out, after)
    return after[-1]["average"]


def check(configs: Sequence[ExperimentConfig]) -> list[TrainingSetup]:
    """Return what each phase is made of, once all are built as their trainings will build them.

    Raises:
        UserError: with the number of the phase that cannot be built, or does not follow the one before.
    """
    kept, known, before = Labels([], []), set[str](), dict[str, torch.Size]()
    setups: list[TrainingSetup] = []
    for k, config in enumerate(configs):
        try:
            r = build_training_setup(config, None, kept if config.train.keep_classes else None)
            body = _shapes(r)
            if before and body is not None and body != before:
                raise UserError(
                    "its backbone, or the channels of its images, are not those of the phase before, whose weights it "
                    "begins with: give all phases the same backbone and data of the same channels"
                )
            before = body or before
            refuse_leaked(r.data["val"], known, "an earlier phase", "Give both the same split of the same data")
        except UserError as error:
            raise UserError(f"train.phases[{k}]: {error}") from error
        train = r.data["train"]
        setups.append(r)
        kept = classifier_labels(train)
        known |= class_ids.training_ids(train)
    replaying.check(setups)
    return setups


def _shapes(r: TrainingSetup) -> dict[str, torch.Size] | None:
    """Return the shapes of the body's tensors; None where it cannot be made without memory."""
    try:
        with torch.device("meta"):
            body: nn.Module = build_body(r.backbone, *image_shape(r.data["train"]))[0]
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return None
    return {name: value.shape for name, value in body.state_dict().items()}


def _write_settings(out: Path, config: ExperimentConfig, configs: Sequence[ExperimentConfig]) -> None:
    """Write config.yaml of all and of each phase, from which resume goes on; what is there stays."""
    for folder, each in [(out, config), *((phase_folder(out, k), each) for k, each in enumerate(configs))]:
        path = folder / "config.yaml"
        if path.is_file():
            continue
        with disk_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(OmegaConf.create(each.whole), path)


def _measured(
    out: Path, configs: Sequence[ExperimentConfig], kinds: Sequence[bool], k: int, best: float
) -> dict[str, Any]:
    """Return the accuracies of the net after phase k on the validation data of each phase, and what they come to."""
    row: list[float | None] = []
    count: list[int | None] = []
    for j, other in enumerate(configs):
        try:
            if kinds[j] != kinds[k] or (kinds[j] and j > k):  # a classifier does not have these classes yet
                raise UserError("images are classified by a classifier of their classes, and episodes by their support")
            found = validation_accuracy(phase_folder(out, k), configs[k], other)
            row.append(found.accuracy)
            count.append(found.count)
        except UserError as error:
            if kinds[j] == kinds[k] and not (kinds[j] and j > k):
                logger.warning(f"the net after phase {k} is not measured on the data of phase {j}: {error}")
            row.append(None)
            count.append(None)
    earlier = [each["accuracy"] for each in phases_report.read(out)]
    found = summarize([*earlier, row])
    return {
        "accuracy": row,
        "count": count,
        "validation": best,
        **found._asdict(),
        "all_classes": _all_classes(configs[: k + 1], row, count) if kinds[k] else None,
    }


def _all_classes(
    configs: Sequence[ExperimentConfig], row: Sequence[float | None], count: Sequence[int | None]
) -> float | None:
    """Return the accuracy over the images of all phases so far, data that come again (train.cycles) counted once."""
    data = [config.data for config in configs]
    own = [j for j, each in enumerate(data) if each not in data[:j]]
    return so_far([row[j] for j in own], [n for j in own if (n := count[j]) is not None])


def _described(out: Path, configs: Sequence[ExperimentConfig]) -> list[dict[str, Any]]:
    return [
        {
            "phase": k,
            "algo": config.algo["name"],
            "data": config.data["_target_"].rpartition(".")[2].lower(),
            "steps": config.train.steps,
            "run": str(phase_folder(out, k)),
        }
        for k, config in enumerate(configs)
    ]
