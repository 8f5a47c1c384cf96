"""Going on from what an earlier run saved: resume the same run, or start a new one from its weights."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from metalab import schema
from metalab.assemble import parts_of
from metalab.check import show
from metalab.config import Train, find_run, settings
from metalab.data import identity
from metalab.errors import UserError
from metalab.interfaces import Split
from metalab.optim import Rate
from metalab.upgrade import read_by_training

MAY_CHANGE = ("train.steps", "train.minutes", "train.patience", "train.on_warning", "device", "data.root")
MAY_CHANGE += ("data.cache", "engine.graphs")
FILES = ("config.yaml", "run.json", "metrics.jsonl", "episode.png", "adaptation.png")  # beside the checkpoints
Builder = Callable[[list[Tensor]], Optimizer]
logger = logging.getLogger("metalab")
PERMITS = ("data.allow_copies", "data.allow_same_names")  # may change, too: no image and no episode is another


def refuse_used(out: Path) -> None:
    """Raise UserError where a new run would overwrite an earlier one's checkpoints and curves in out."""
    for name in ("last.pt", "best.pt"):
        if (out / name).exists():
            raise UserError(
                f"{out} already holds a run ({name}): go on with it, as metalab train resume={out}, "
                "or give the new run another folder, as hydra.run.dir=outputs/train/another"
            )


def refuse_folders(out: Path) -> None:
    """Raise UserError, before any work, where a folder stands in the place of a file that a run writes into out."""
    for name in (*FILES, "last.pt", "best.pt"):
        if (out / name).is_dir():
            raise UserError(
                f"{out / name} is a folder, and a run writes a file of that name: move it away, or give the run "
                "another folder, as hydra.run.dir=outputs/train/another"
            )


def checkpoint_in(folder: Path) -> Path:
    """Return the file from which a run goes on: last.pt, or best.pt where the run was killed before it wrote that."""
    last, best = folder / "last.pt", folder / "best.pt"
    return best if best.is_file() and not last.exists() else last


def accepted(cfg: DictConfig, out: Path) -> dict[str, Any]:
    """Return the last checkpoint of the run in out, or raise UserError where cfg asks for another run than that."""
    settings(Train, cfg.train, "train")  # a mistyped limit is told before it is compared
    saved = schema.loaded(checkpoint_in(out))
    new, old = flat(plain(cfg)), flat(saved["config"])
    changed = {k for k in new.keys() | old.keys() if new.get(k) != old.get(k) and read_by_training(k)} - {"resume"}
    refused = sorted(changed - set(MAY_CHANGE))
    refused = [key for key in refused if key not in PERMITS]
    if refused:
        listed = ", ".join(f"{k}={show(new.get(k))} (the run has {show(old.get(k))})" for k in refused)
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
    listed = ", ".join(f"{k}={show(new.get(k))} (was {show(old.get(k))})" for k in sorted(changed))
    logger.info(f"resumes {out} after step {step} of {steps}" + (f"; changed: {listed}" if changed else ""))
    rate, _ = parts_of(plain(cfg)["optim"], Rate)
    if "train.steps" in changed and settings(Rate, rate, "optim").needs_steps:
        logger.info(
            f"optim.schedule={rate['schedule']} runs over all of train.steps: with {steps} in the place of "
            f"{old['train.steps']} the learning rate of the coming steps is another than it would have been"
        )
    return saved


def restore(saved: dict[str, Any], path: Path, net: nn.Module, optimiser: Optimizer, build: Builder) -> None:
    """Give a net and its optimiser what the checkpoint at path holds of them; UserError where it does not fit them.

    build: what made the optimiser of a list of parameters.
    """
    schema.refuse(path, schema.net_misfits(net.state_dict(), saved["net"]))
    one = nn.Parameter(torch.zeros(2))  # on which the optimiser shows what it keeps of a parameter
    one.grad = torch.zeros(2)
    shown = build([one])
    shown.step()
    kept = shown.state_dict()["state"].get(0, {})
    shapes = [parameter.shape for parameter in net.parameters()]
    found = schema.optimiser_misfits(optimiser.state_dict(), saved["optimiser"], kept, shapes)
    schema.refuse(path, found)
    net.load_state_dict(saved["net"])
    groups = optimiser.state_dict()["param_groups"]  # as the settings have them, which are those of the run
    optimiser.load_state_dict({"state": saved["optimiser"]["state"], "param_groups": groups})


def refuse_other_data(saved: dict[str, str], now: dict[str, str]) -> None:
    """Raise UserError where a split holds other images or classes than it did when the run was saved."""
    changed = [name for name, print_ in now.items() if saved[name] != print_]
    if changed:
        raise UserError(
            f"the {' and '.join(changed)} images are not those that the run was trained with: files or classes were "
            "added, taken away or changed. Give it the same data, or start a new run"
        )


def warm_start(net: nn.Module, run: str) -> tuple[set[str], dict[str, str]]:
    """Load the weights of a run's best checkpoint into net; return the ids it carries and the hashes of its splits.

    The body must fit; a part of the algorithm's that is not there, or has another shape, starts afresh and is named.
    """
    folder = find_run(run)
    saved = schema.loaded(folder / "best.pt")
    own, given = net.state_dict(), saved["net"]
    fits = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    misfits = [k for k in {**own, **given} if k.startswith("body.") and k not in fits]
    if misfits:
        raise UserError(
            f"train.init={run}: its backbone {show(saved['config']['backbone'])} on images of shape {saved['shape']} "
            f"does not fit this one; {len(misfits)} tensors differ, the first is {misfits[0]}. "
            "Choose the same backbone, data.size and channels as that run's config.yaml"
        )
    net.load_state_dict(own | fits)
    afresh, unused = ({k.partition(".")[0] for k in keys if k not in fits} for keys in (own, given))
    logger.info(
        f"starts from {folder} after its step {saved['state']['step']}"
        + (f"; afresh: {', '.join(sorted(afresh))}" if afresh else "")
        + (f"; not taken: {', '.join(sorted(unused - afresh))}" if unused - afresh else "")
    )
    return set(saved["classes"]), saved["data"]


def refuse_known(val: Split, known: set[str], source: str) -> None:
    """Raise UserError where validation classes were trained on by the warm start: they would choose best.pt."""
    shared = identity.known(val, known)
    if shared:
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise UserError(
            f"{source} was trained on {len(shared)} of the {len(set(val.ids))} validation classes: "
            f"{', '.join(shared[:5])}{more}. Give the split that it was trained with"
        )


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one of dotted keys."""
    items: dict[str, Any] = {}
    for key, value in node.items():
        items |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return items


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain Python with nothing left to resolve."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]
