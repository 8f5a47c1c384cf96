"""Going on from what an earlier run saved: resume the same run, or start a new one from its weights."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metalab.config.experiment import ExperimentConfig
from metalab.config.instantiate import flat, parts_of, settings
from metalab.config.upgrade import read_by_training
from metalab.config.validate import format_value
from metalab.core.errors import UserError
from metalab.tracking import checkpoint_schema
from metalab.tracking.run_folder import checkpoint_in
from metalab.training.optimizers import LRSchedule

MAY_CHANGE = ("train.steps", "train.minutes", "train.patience", "train.on_warning", "device", "data.root")
MAY_CHANGE += ("data.labels", "data.source_root", "data.target_root", "data.cache", "engine.graphs")
MAY_CHANGE += ("reg.distill.teacher", "train.prune_after", "train.prune_warmup")
Builder = Callable[[list[Tensor]], Optimizer]
logger = logging.getLogger("metalab")
PERMITS = ("data.allow_copies", "data.allow_same_names")  # may change, too: no image and no episode is another


def load_resumable(config: ExperimentConfig, out: Path) -> dict[str, Any]:
    """Return the last checkpoint of the run in out; UserError where the configuration asks for another run."""
    _ = config.train  # a mistyped limit is told before it is compared
    saved = checkpoint_schema.load_checked(checkpoint_in(out))
    new, old = flat(config.whole), flat(saved["config"])
    changed = {k for k in new.keys() | old.keys() if new.get(k) != old.get(k) and read_by_training(k)} - {"resume"}
    refused = sorted(changed - set(MAY_CHANGE))
    refused = [key for key in refused if key not in PERMITS]
    if refused:
        listed = ", ".join(f"{k}={format_value(new.get(k))} (the run has {format_value(old.get(k))})" for k in refused)
        raise UserError(
            f"resume goes on with the same run and takes only {', '.join(MAY_CHANGE)}; not {listed}. "
            + (
                f"For a new run from its weights type train.init={out}"
                if (out / "best.pt").is_file()
                else "Start a new run"
            )
        )
    step, steps = saved["state"]["step"], new["train.steps"]
    if steps <= step and "train.steps" in changed:
        raise UserError(
            f"train.steps={steps}, but {out} has done {step} steps already; give more, as train.steps={2 * step}"
        )
    if "train.steps" in changed and new.get("train.snapshots") is not None:
        raise UserError(
            f"train.steps={steps} with train.snapshots={new['train.snapshots']}: the cycles of {out} are of "
            f"{old['train.steps']} steps in all, its snapshots at their ends: leave out train.steps, or start a new "
            f"run from its weights, train.init={out}"
        )
    listed = ", ".join(f"{k}={format_value(new.get(k))} (was {format_value(old.get(k))})" for k in sorted(changed))
    logger.info(f"resumes {out} after step {step} of {steps}" + (f"; changed: {listed}" if changed else ""))
    rate, _ = parts_of(config.optim, LRSchedule)
    if "train.steps" in changed and settings(LRSchedule, rate, "optim").needs_steps:
        logger.info(
            f"optim.schedule={rate['schedule']} runs over all of train.steps: with {steps} in the place of "
            f"{old['train.steps']} the learning rate of the coming steps is another than it would have been"
        )
    return saved


def restore(saved: dict[str, Any], path: Path, net: nn.Module, optimizer: Optimizer, build: Builder) -> None:
    """Give a net and its optimizer what the checkpoint at path holds of them; UserError where it does not fit them.

    build: what made the optimizer of a list of parameters.
    """
    checkpoint_schema.refuse(path, checkpoint_schema.net_mismatches(net.state_dict(), saved["net"]))
    one = nn.Parameter(torch.zeros(2))  # on which the optimizer shows what it keeps of a parameter
    one.grad = torch.zeros(2)
    shown = build([one])
    shown.step()
    kept = shown.state_dict()["state"].get(0, {})
    shapes = [parameter.shape for parameter in net.parameters() if parameter.requires_grad]
    found = checkpoint_schema.optimizer_mismatches(optimizer.state_dict(), saved["optimizer"], kept, shapes)
    checkpoint_schema.refuse(path, found)
    net.load_state_dict(saved["net"])
    groups = optimizer.state_dict()["param_groups"]  # as the settings have them, which are those of the run
    optimizer.load_state_dict({"state": saved["optimizer"]["state"], "param_groups": groups})


def refuse_other_data(saved: dict[str, str], now: dict[str, str]) -> None:
    """Raise UserError where a split holds other images or classes than it did when the run was saved."""
    changed = [name for name, print_ in now.items() if saved.get(name, print_) != print_]  # older runs have no target
    if changed:
        raise UserError(
            f"the {' and '.join(changed)} images are not those that the run was trained with: files or classes were "
            "added, taken away or changed. Give it the same data, or start a new run"
        )
